"""Lines that a document is better without: what C4's rules drop, and what was read before (CCNet).

C4: Raffel et al. 2020, arXiv 1910.10683, §2.2. CCNet: Wenzek et al. 2019, arXiv 1911.00359, §3.1, the first stage of
LLaMA-1's pipeline. A line is what `str.splitlines` makes, without the spaces around it; blank lines are none.
"""

from __future__ import annotations

import unicodedata
from array import array
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

LINE_SETS = ("c4", "dedup")  # what may be asked of lines
ELLIPSES = ("...", "…")
C4_LINE_WORDS = 5  # C4 §2.2: shorter lines go
C4_LINE_ENDS = (".", "!", "?", '"', "”")  # C4 §2.2: a line ends in terminal punctuation or an end quotation mark
C4_NOTICES = (  # C4 §2.2: warnings about Javascript, and policy notices
    "javascript",
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
)
SHOWN = 80  # characters of a repeated line in the ledger


class Fault(NamedTuple):
    """Why a line goes: `value` against `threshold`."""

    rule: str
    value: Any
    threshold: Any


def c4_fault(line: str) -> Fault | None:
    """Why C4 drops this line, or None.

    It keeps lines of 5 words or more that end in terminal punctuation (an ellipsis is none) and speak neither of
    Javascript nor of policies and cookies.
    """
    if not line.endswith(C4_LINE_ENDS) or line.endswith(ELLIPSES):
        return Fault("c4_line_end", "..." if line.endswith("...") else line[-1:], C4_LINE_ENDS)
    if (count := len(line.split())) < C4_LINE_WORDS:
        return Fault("c4_line_words", count, C4_LINE_WORDS)
    lower = line.lower()
    notice = next((notice for notice in C4_NOTICES if notice in lower), None)
    return Fault("c4_line_notice", notice, None) if notice else None


class _Plain(dict[int, str | None]):
    """What becomes of a character of a lower-case line, for `str.translate`: found once, then remembered."""

    def __missing__(self, code: int) -> str | None:
        category = unicodedata.category(chr(code))
        dropped = category[0] in "PC" or category == "Mn"
        self[code] = None if dropped else "0" if category == "Nd" else chr(code)
        return self[code]


_PLAIN = _Plain()
_ASCII = bytes(ord(_PLAIN[ord(chr(code).lower())] or "\0") for code in range(128)) + bytes(128)
_ASCII_DROPPED = bytes(code for code in range(128) if _PLAIN[code] is None)


def normalised_line(line: str) -> bytes:
    """CCNet §3.1: lower case, every digit 0; without punctuation, accents and control characters. UTF-8."""
    if line.isascii():
        return line.encode().translate(_ASCII, _ASCII_DROPPED)
    return unicodedata.normalize("NFD", line.lower()).translate(_PLAIN).encode()


class SeenLines:
    """The 64-bit keys of all lines read so far: 8 bytes a distinct line, up to 16 while runs are merged.

    The latest stand in a set; when it is full they become a sorted run, and runs of like size are merged, so that
    N lines lie in at most log2(N / 65,536) runs. That two lines among 10^9 share a key has probability 0.03.
    """

    LATEST = 1 << 16

    def __init__(self) -> None:
        self._latest: set[int] = set()
        self._runs: list[npt.NDArray[np.uint64]] = []

    def __len__(self) -> int:
        return len(self._latest) + sum(run.size for run in self._runs)

    def first_time(self, keys: Sequence[int]) -> list[bool]:
        """For each of `keys`, in order, whether it comes for the first time."""
        keys_L = np.array(keys, np.uint64)
        known_L = np.zeros(len(keys), bool)
        for run in self._runs:
            at_L = np.searchsorted(run, keys_L)
            known_L |= run[np.minimum(at_L, run.size - 1)] == keys_L
        first = []
        for key, known in zip(keys, known_L.tolist(), strict=True):
            first.append(not known and key not in self._latest)
            if first[-1]:
                self._latest.add(key)
        if len(self._latest) >= self.LATEST:
            self._settle()
        return first

    def _settle(self) -> None:
        run = np.fromiter(self._latest, np.uint64, len(self._latest))
        self._latest.clear()
        while self._runs and self._runs[-1].size <= run.size:
            run = np.concatenate((self._runs.pop(), run))
        run.sort()
        self._runs.append(run)


class NotedLines(SeenLines):
    """Takes every line for new, and notes the keys in the order in which they come: the first of two readings."""

    def __init__(self) -> None:
        self.keys = array("Q")

    def first_time(self, keys: Sequence[int]) -> list[bool]:
        """For each of `keys` True."""
        self.keys.extend(keys)
        return [True] * len(keys)


class KnownLines(SeenLines):
    """Answers in the second reading of the same lines: `first_L` has for each whether it comes for the first time."""

    def __init__(self) -> None:
        self.start(np.zeros(0, bool))

    def start(self, first_L: npt.NDArray[np.bool_]) -> None:
        """The answers from here on."""
        self._first_L, self._asked = first_L, 0

    def first_time(self, keys: Sequence[int]) -> list[bool]:
        """The next answers, one for each of `keys`."""
        start, self._asked = self._asked, self._asked + len(keys)
        first: list[bool] = self._first_L[start : self._asked].tolist()
        return first


class Edit(NamedTuple):
    """A text without its faulty lines: how many there `were`, and the faults by line number, counted from 1."""

    text: str
    were: int
    faults: dict[int, Fault]


def edited(text: str, c4: bool = False, seen: SeenLines | None = None) -> Edit:
    """`text` without the lines that C4's rules drop (if asked for) and those in `seen`, which takes the others in.

    Line numbers count blank lines too. A text that loses nothing stays as it is; otherwise paragraphs stay apart.
    """
    rows = text.splitlines()
    lines = {number: line for number, line in enumerate(map(str.strip, rows), 1) if line}
    faults = {}
    if c4:
        faults = {number: fault for number, line in lines.items() if (fault := c4_fault(line))}
    if seen is not None:
        normal = {number: normalised_line(line) for number, line in lines.items() if number not in faults}
        first = seen.first_time([xxhash.xxh3_64_intdigest(line) for line in normal.values()])
        for (number, line), new in zip(normal.items(), first, strict=True):
            if not new:
                faults[number] = Fault("duplicate_line", line.decode()[:SHOWN], None)
    if not faults:
        return Edit(text, len(lines), {})
    kept: list[str] = []
    for number, row in enumerate(rows, 1):
        if number in lines and number not in faults:
            kept.append(row)
        elif number not in lines and kept and kept[-1]:
            kept.append("")
    return Edit("\n".join(kept).rstrip("\n"), len(lines), dict(sorted(faults.items())))
