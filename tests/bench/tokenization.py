"""How fast l2 tokenizes, beside sentencepiece's own encode: see shell/bench.sh.

`l2 tokenize` is timed as a whole: start, JSON, ids, shards on disk. sentencepiece is given the texts as a list in
memory, in a process that has started, and may keep its ids there. In turns, medians over rounds with the least and the
most; all ids are compared once.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import sentencepiece

from l2.files.jsonl import read_records
from l2.tokens.shards import Shard
from l2.tokens.tokenizer import load_tokenizer


def command(docs: str, tokenizer: str, jobs: int, out: Path) -> float:
    """Seconds of `l2 tokenize`, to shards in `out`."""
    shutil.rmtree(out, ignore_errors=True)
    start = time.perf_counter()
    program = [sys.executable, "-m", "cmds.app", "tokenize", docs, "--tokenizer", tokenizer, "--quiet"]
    subprocess.run([*program, "--jobs", str(jobs), "--out", str(out)], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def encode_alone(texts: list[str], model: bytes) -> float:
    """Seconds of l2's encoder in this process, with a cold cache."""
    from l2.tokens.cached import make_encoder

    encoder = make_encoder(model, np.dtype("<u2"))
    start = time.perf_counter()
    for text in texts:
        for part in encoder.parts(text, 2**18):
            encoder.encode(part)
    return time.perf_counter() - start


def main() -> None:
    """Measure and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("docs", help="JSONL")
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, nargs="*", default=[1, 2])
    asked = parser.parse_args()
    vocabulary = load_tokenizer(asked.tokenizer)
    pieces = sentencepiece.SentencePieceProcessor(model_proto=vocabulary.model_bytes)
    texts = [record["text"] for record in read_records([asked.docs], required=["text"])]
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    print(f"{len(texts):,} documents, {megabytes:.1f} MB, {vocabulary.vocab_size:,} pieces, {asked.rounds} rounds")
    rates: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "shards")
        for _ in range(asked.rounds):
            start = time.perf_counter()
            ids = pieces.encode(texts, num_threads=2, return_type="numpy")
            rates["sentencepiece, 2 threads"].append(megabytes / (time.perf_counter() - start))
            rates["l2's encoder alone"].append(megabytes / encode_alone(texts, vocabulary.model_bytes))
            for jobs in asked.jobs:
                rates[f"l2 tokenize --jobs {jobs}"].append(megabytes / command(asked.docs, asked.tokenizer, jobs, out))
        theirs = np.concatenate([part for one in ids for part in ([vocabulary.bos_id], one, [vocabulary.eos_id])])
        ours = np.concatenate([Shard(path).tokens for path in sorted(out.glob("*.bin"))])
        print("identical ids" if np.array_equal(ours, theirs) else "OTHER IDS", f"({len(ours):,})")
    theirs_best = statistics.median(rates["sentencepiece, 2 threads"])
    for name, values in rates.items():
        middle = statistics.median(values)
        spread = f"[{min(values):.1f}-{max(values):.1f}]"
        print(f"  {name:24} {middle:6.1f} MB/s {spread:14} {middle / theirs_best:5.2f} x sentencepiece, 2 threads")


if __name__ == "__main__":
    main()
