"""The sources of a pretraining run and how often each is read (paper §2.1: the most factual ones more often)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from l2.files.errors import UsageError

MAX_EPOCHS = 100.0  # in one pass; a slip of the keyboard, beyond that (ours)


class Source(NamedTuple):
    """The shards whose file name, without .bin, matches `pattern`, and how often a pass reads them."""

    pattern: str
    epochs: float


EVERYTHING = (Source("*", 1.0),)


class Planned(NamedTuple):
    """What a run reads of a source: tokens, their share of all, and how often over."""

    pattern: str
    tokens: int
    share: float
    epochs: float


def parse_mix(text: str) -> list[Source]:
    """The sources of "wiki*=2,web*=1". Raises UsageError."""
    sources = []
    for part in text.split(","):
        pattern, _, number = part.strip().rpartition("=")
        try:
            epochs = float(number)
        except ValueError:
            epochs = 0.0
        if not pattern or not 0 < epochs <= MAX_EPOCHS:
            wanted = f"PATTERN=EPOCHS with epochs over 0 and at most {MAX_EPOCHS:g}"
            raise UsageError(f"--mix: {part.strip()!r} is not {wanted}, as in 'wiki*=2,web*=1'")
        sources.append(Source(pattern, epochs))
    return sources


def name_of(path: Path, sources: Sequence[Source]) -> str:
    """Under which name a held-out file is told of: the first pattern that matches, or else its own without number."""
    matching = (source.pattern for source in sources if fnmatchcase(path.stem, source.pattern))
    return next(matching, re.sub(r"-\d{5}$", "", path.stem))


def source_of_each(sources: Sequence[Source], paths: Sequence[Path]) -> list[int]:
    """For each path the index of the first source that matches its name without suffix.

    Raises UsageError for a path that matches none, and for a source that is left without any.
    """

    def first_match(path: Path) -> int:
        for i, source in enumerate(sources):
            if fnmatchcase(path.stem, source.pattern):
                return i
        names = ", ".join(source.pattern for source in sources)
        raise UsageError(f"--mix: {path} matches none of {names}; a pattern is of the whole name, as 'wiki*'")

    found = [first_match(path) for path in paths]
    for i, source in enumerate(sources):
        if i not in found:
            raise UsageError(f"--mix: nothing is left for {source.pattern}; the first pattern that matches takes it")
    return found
