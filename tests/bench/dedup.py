"""How fast near-duplicates are found, and how rightly, beside other libraries: see shell/bench.sh.

Whole programs take turns, file in, kept documents out, start and all; medians over rounds with the least and the most.
"Signatures" is what each says that normalising, shingles and MinHash took of it. What is kept is held to the truth of
tests/bench/corpus.py at a Jaccard similarity of 0.8:

- false: a document is dropped although none that is kept has it; precision is what of the dropped is not false;
- missed: a document is kept although one before it that is kept has it; recall is the rightly dropped over
  themselves and the missed.
"""

from __future__ import annotations

import argparse
import itertools
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import orjson

from l2.files.jsonl import read_records
from l2.files.parallel import ordered_map
from l2.text.duplicates import band_keys, normalised, shingles, signature

SIMILAR = 0.8
CHUNK = 500  # documents that go to a process at once
L2 = f"{shlex.quote(sys.executable)} -m cmds.app filter {{docs}} --quality none --dedup minhash --quiet -o {{kept}}"
BINS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


class Verdict(NamedTuple):
    """How many documents were dropped rightly, falsely, and missed; and of the pairs of each bin, both kept of all."""

    right: int
    false: int
    missed: int
    both_kept: dict[float, tuple[int, int]]

    def __str__(self) -> str:
        recall, precision = self.right / (self.right + self.missed), self.right / (self.right + self.false)
        bins = ", ".join(f"{low:.1f}: {kept / of:.3f} of {of:,}" for low, (kept, of) in self.both_kept.items())
        return f"recall {recall:.4f}, precision {precision:.4f} ({self.right:,} right, {self.false:,} false, " + (
            f"{self.missed:,} missed); pairs with both kept by Jaccard: {bins}"
        )


def judged(pairs: Iterable[tuple[int, int, float]], kept: set[int], count: int) -> Verdict:
    """What is right of keeping `kept` among `count` documents, given all similar pairs a < b."""
    like: dict[int, list[int]] = defaultdict(list)
    bins = {low: [0, 0] for low in BINS}
    for a, b, jaccard in pairs:
        if jaccard >= SIMILAR:
            like[a].append(b)
            like[b].append(a)
        low = max(low for low in BINS if low <= jaccard)
        bins[low][0] += a in kept and b in kept
        bins[low][1] += 1
    near_kept = {a: [b for b in others if b in kept] for a, others in like.items()}
    right = sum(number not in kept and bool(near_kept.get(number)) for number in range(count))
    missed = sum(any(b < a for b in near_kept.get(a, ())) for a in kept)
    both_kept = {low: (both, of) for low, (both, of) in bins.items() if of}
    return Verdict(right, count - len(kept) - right, missed, both_kept)


def sign(texts: list[str]) -> int:
    """Signatures of a chunk of texts, as `l2 filter` makes them."""
    return sum(band_keys(signature(shingles(normalised(text)))).size for text in texts)


def make_sign() -> object:
    """For `ordered_map`."""
    return sign


def signing(texts: list[str], jobs: int) -> float:
    """Seconds in which `jobs` processes sign `texts`, once they have started and each has had a chunk."""
    chunks = [texts[i : i + CHUNK] for i in range(0, len(texts), CHUNK)]
    results = ordered_map(make_sign, [*chunks[:1] * 4 * jobs, *chunks], jobs)
    for _ in range(2 * jobs):
        next(results)
    start = time.perf_counter()
    done = sum(1 for _ in results)
    # What was still on its way of the warm-up counts too.
    return (time.perf_counter() - start) * len(chunks) / done


def run(command: str, docs: Path, kept: Path) -> tuple[float, float | None]:
    """Seconds of a whole program, and those that it says signatures took."""
    start = time.perf_counter()
    named = command.format(docs=shlex.quote(str(docs)), kept=shlex.quote(str(kept)))
    done = subprocess.run(named, shell=True, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{named}\n{done.stderr[-2000:]}")
    said = re.findall(r"signatures (\d+(?:\.\d+)?)", done.stdout)
    return seconds, float(said[-1]) if said else None


def report(title: str, rates: Mapping[str, list[float]], megabytes: float) -> None:
    """Medians and spread of documents a second; MB/s; `megabytes` of a document."""
    print(f"\n{title} (documents/s)")
    for name, values in rates.items():
        middle = statistics.median(values)
        print(f"  {name:24} {middle:9,.0f}  [{min(values):,.0f}-{max(values):,.0f}]  {middle * megabytes:6.2f} MB/s")


def main() -> None:
    """Measure and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir", type=Path, help="what tests/bench/corpus.py made")
    parser.add_argument("--documents", type=int, default=20_000, help="the first so many of them")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, nargs="*", default=[1], help="of l2 filter, each a contender")
    parser.add_argument(
        "--peer", action="append", default=[], metavar="NAME=COMMAND",
        help="a program that reads {docs} and writes {kept}, such as 'rensa=python tests/bench/dedup_peers.py rensa "
        "{docs} {kept}'",
    )  # fmt: skip
    asked = parser.parse_args()
    documents = list(itertools.islice(read_records([asked.dir / "docs.jsonl"], required=["text"]), asked.documents))
    numbers = {document["id"]: number for number, document in enumerate(documents)}
    truth = [(pair["a"], pair["b"], pair["jaccard"]) for pair in read_records([asked.dir / "truth.jsonl"])]
    truth = [pair for pair in truth if pair[1] < len(documents)]
    texts = [document["text"] for document in documents]
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    print(f"{len(texts):,} documents, {megabytes:.1f} MB, {asked.rounds} rounds")
    with tempfile.TemporaryDirectory() as folder:
        docs, kept = Path(folder, "docs.jsonl"), Path(folder, "kept.jsonl")
        docs.write_bytes(b"".join(orjson.dumps(document) + b"\n" for document in documents))
        programs = {f"l2 --jobs {jobs}": f"{L2} --jobs {jobs}" if jobs > 1 else L2 for jobs in asked.jobs}
        programs |= dict(peer.split("=", 1) for peer in asked.peer)
        whole: dict[str, list[float]] = defaultdict(list)
        signed: dict[str, list[float]] = defaultdict(list)
        verdicts = {}
        for _ in range(asked.rounds):
            for jobs in (1, 2):
                signed[f"l2, {jobs} processes"].append(len(texts) / signing(texts, jobs))
            for name, command in programs.items():
                seconds, of_signatures = run(command, docs, kept)
                whole[name].append(len(texts) / seconds)
                if of_signatures:
                    signed[name].append(len(texts) / of_signatures)
                ids = {numbers[document["id"]] for document in read_records([kept])}
                verdicts[name] = judged(truth, ids, len(texts))
    report("Signatures", signed, megabytes / len(texts))
    report("From file to file", whole, megabytes / len(texts))
    print(f"\nAgainst the truth at {SIMILAR}")
    for name, verdict in verdicts.items():
        print(f"  {name}: {verdict}")


if __name__ == "__main__":
    main()
