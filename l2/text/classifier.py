"""Is a page like those that people cite? A linear classifier of words and word pairs, by fastText.

LLaMA-1 trained one to tell pages that Wikipedia cites from random ones, and dropped those not classed as references
(Touvron et al. 2023, arXiv 2302.13971, §2.1). It gives no settings: they are ours. Labels are those of DCLM's public
classifiers, __label__hq for good pages, so that these can be used too.
"""

from __future__ import annotations

import os
import tempfile
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from l2.files.atomic import write_atomic
from l2.files.errors import BadInput, L2Error, UsageError
from l2.files.jsonl import read_records
from l2.text.fasttext_model import LABEL, load_predict

GOOD, OTHER = f"{LABEL}hq", f"{LABEL}other"
DIM, EPOCHS, RATE = 16, 5, 0.5
MAX_BUCKETS = 2_000_000  # of hashed word pairs; not more than there are words
KEPT, PARTS = 50_000, 4  # in an .ftz: the words and pairs that matter most, in codes of one byte for 4 dimensions


def load_quality(path: str | Path) -> Callable[[str], float]:
    """A function from a text to the probability that it is good, by the fastText model at `path`.

    Raises L2Error for a missing file, BadInput for one that is no fastText model with a label __label__hq.
    """
    file = Path(path)
    expected = f"a fastText model with a label {GOOD}"
    predict = load_predict(file, expected)
    labels = sorted(label for _, label in predict("", -1))
    if GOOD not in labels:
        raise BadInput(str(file), f"labels {', '.join(labels[:5])}", expected)

    def quality(text: str) -> float:
        return round(next((p for p, label in predict(text, -1) if label == GOOD), 0.0), 4)

    return quality


def _one_line(text: str) -> str:
    return text.replace("\n", " ") + "\n"


def train_quality(positive: str | Path, negative: str | Path, output: str | Path, seed: int = 0) -> dict[str, int]:
    """Train a classifier on the documents of two JSONL files, and write it to `output`: .bin, or .ftz (quantised).

    About as many of one kind as of the other make 0.5 the natural threshold. One thread: the same documents and seed
    give the same bytes. Returns the number of documents {positive, negative}. Raises UsageError for another ending of
    `output`, L2Error where fastText can't train, BadInput for a line without a text.
    """
    small = str(output).endswith(".ftz")
    if not small and not str(output).endswith(".bin"):
        raise UsageError(f"the classifier goes to a file that ends in .ftz or .bin, not to {output}")
    import fasttext

    if not hasattr(fasttext, "train_supervised"):
        raise L2Error(
            "the installed module fasttext can't train; pip uninstall fasttext-predict, "
            "then pip install --force-reinstall fasttext-community"
        )
    with tempfile.TemporaryDirectory() as directory:
        lines, model = Path(directory, "lines.txt"), Path(directory, "model")
        counts, words = _write_shuffled(lines, ((GOOD, positive), (OTHER, negative)), seed)
        trained = fasttext.train_supervised(
            input=str(lines), dim=DIM, lr=RATE, epoch=EPOCHS, wordNgrams=2, minCount=1, loss="softmax",
            bucket=min(max(words, 1_000), MAX_BUCKETS), thread=1, seed=seed, verbose=0,
        )  # fmt: skip
        if small:
            trained.quantize(input=str(lines), cutoff=KEPT, dsub=PARTS, retrain=False, verbose=0)
        trained.save_model(str(model))
        write_atomic(output, model.read_bytes())
    return dict(zip(("positive", "negative"), counts, strict=True))


def _write_shuffled(path: Path, sources: Sequence[tuple[str, str | Path]], seed: int) -> tuple[list[int], int]:
    """The documents of (label, file) `sources`, one a line in random order; how many from each, and words in all."""
    counts, words, ends = [0] * len(sources), 0, array("Q", [0])
    with tempfile.TemporaryFile() as spill, open(path, "wb") as out:
        for kind, (label, source) in enumerate(sources):
            for record in read_records([source]):
                text = record.need("text").replace(LABEL, "")  # fastText would take such a word for a label
                ends.append(ends[-1] + spill.write(f"{label} {_one_line(text)}".encode()))
                counts[kind] += 1
                words += len(text.split())
        spill.flush()
        for i in np.random.default_rng(seed).permutation(sum(counts)):
            out.write(os.pread(spill.fileno(), ends[i + 1] - ends[i], ends[i]))
    return counts, words
