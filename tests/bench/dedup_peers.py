"""Near-duplicates by other libraries, each in its own best loop: python dedup_peers.py NAME DOCS.jsonl KEPT.jsonl.

14 bands of 8 rows over word 5-grams, as l2 has them. Documents that are kept are written; the seconds that signatures
took are the last number printed. Needs what it names, and orjson and xxhash; nothing of l2, so that it runs in an
environment of its own. tests/bench/dedup.py starts it.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import xxhash

BANDS, ROWS, WORDS = 14, 8, 5
Documents = list[dict]
Kept = Iterator[dict]


def shingles(text: str) -> set[str]:
    """Word 5-grams."""
    words = re.findall(r"\w+", text.lower())
    return {" ".join(words[i : i + WORDS]) for i in range(max(1, len(words) - WORDS + 1))}


def first_of_each(documents: Documents, signatures: list, lsh: object) -> Kept:
    """Documents of which no kept one before is a candidate; nobody verifies candidates."""
    for number, (document, signature) in enumerate(zip(documents, signatures, strict=True)):
        if not lsh.query(signature):
            lsh.insert(number, signature)
            yield document


def datasketch(documents: Documents, workers: int) -> Kept:
    """MinHash.update_batch on a copy of an empty one, the fastest of its loops."""
    from datasketch import MinHash, MinHashLSH

    start = time.perf_counter()
    empty = MinHash(BANDS * ROWS, hashfunc=xxhash.xxh32_intdigest, scheme="affine32")
    signatures = []
    for document in documents:
        signatures.append(empty.copy())
        signatures[-1].update_batch([shingle.encode() for shingle in shingles(document["text"])])
    print("signatures", time.perf_counter() - start)
    yield from first_of_each(documents, signatures, MinHashLSH(num_perm=BANDS * ROWS, params=(BANDS, ROWS)))


def rensa(documents: Documents, workers: int) -> Kept:
    """RMinHash over all sets at once."""
    from rensa import RMinHash, RMinHashLSH

    start = time.perf_counter()
    signatures = RMinHash.from_token_sets([shingles(document["text"]) for document in documents], BANDS * ROWS, 1)
    print("signatures", time.perf_counter() - start)
    yield from first_of_each(documents, signatures, RMinHashLSH(0.8, BANDS * ROWS, BANDS))


def datatrove(documents: Documents, workers: int) -> Kept:
    """Its four stages, one task and one file a worker."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import minhash
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter

    with tempfile.TemporaryDirectory() as folder:
        parts, signatures, pairs, removed, kept = (f"{folder}/{i}" for i in range(5))
        Path(parts).mkdir()
        for i in range(workers):
            lines = [orjson.dumps(document) + b"\n" for document in documents[i::workers]]
            Path(parts, f"{i}.jsonl").write_bytes(b"".join(lines))
        config = minhash.MinhashConfig(n_grams=WORDS, num_buckets=BANDS, hashes_per_bucket=ROWS)
        read = JsonlReader(parts)
        stages = [
            ([read, minhash.MinhashDedupSignature(signatures, config)], workers),
            ([minhash.MinhashDedupBuckets(signatures, pairs, config=config)], BANDS),
            ([minhash.MinhashDedupCluster(pairs, removed, config)], 1),
            ([read, minhash.MinhashDedupFilter(removed), JsonlWriter(kept, compression=None)], workers),
        ]
        for number, (stage, tasks) in enumerate(stages):
            start = time.perf_counter()
            LocalPipelineExecutor(stage, tasks, workers, logging_dir=f"{folder}/log{number}").run()
            if number == 0:
                seconds = time.perf_counter() - start
        for path in sorted(Path(kept).glob("*.jsonl")):
            yield from map(orjson.loads, path.read_bytes().splitlines())
        print("signatures", seconds)


PEERS: dict[str, Callable[[Documents, int], Kept]] = {
    "datasketch": datasketch,
    "rensa": rensa,
    "datatrove": datatrove,
}


def main() -> None:
    """One peer over one file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=PEERS)
    parser.add_argument("docs", type=Path)
    parser.add_argument("kept", type=Path)
    parser.add_argument("--workers", type=int, default=1)
    asked = parser.parse_args()
    documents = [orjson.loads(line) for line in asked.docs.open("rb")]
    kept = PEERS[asked.name](documents, asked.workers)
    asked.kept.write_bytes(b"".join(orjson.dumps(document) + b"\n" for document in kept))


if __name__ == "__main__":
    main()
