"""Thresholds by name, of scores and of quality rules: `toxicity=0.5`, `gopher_words=20:5000`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from l2.files.errors import UsageError

Default = TypeVar("Default", float, None)
Threshold = float | tuple[float, float]  # one bound, or the least and the most

GRAMMAR = "NAME=NUMBER or NAME=LOW:HIGH, as toxicity=0.5 or gopher_words=20:5000"


def parse_thresholds(texts: Iterable[str]) -> dict[str, Threshold]:
    """What `texts` write, by name; of two for one name the later holds.

    Raises UsageError for anything else, and for a LOW above its HIGH.
    """
    found: dict[str, Threshold] = {}
    for text in texts:
        name, _, written = text.partition("=")
        try:
            numbers = [float(number) for number in written.split(":")]
        except ValueError:
            numbers = []
        if not name or len(numbers) not in (1, 2) or any(number != number for number in numbers):
            raise UsageError(f"{text!r:.80} is no threshold; one is {GRAMMAR}")
        if numbers[0] > numbers[-1]:
            raise UsageError(f"the threshold {text!r:.80} leaves nothing between {numbers[0]:g} and {numbers[-1]:g}")
        found[name.strip()] = (numbers[0], numbers[1]) if len(numbers) == 2 else numbers[0]
    return found


def agree(thresholds: Mapping[str, Threshold], measured: Mapping[str, tuple[str, bool]]) -> None:
    """Raises UsageError for a threshold that nothing is held against.

    `measured` tells of each name what measures it, and whether that is asked for.
    """
    for name in thresholds:
        if name not in measured:
            raise UsageError(f"nothing called {name!r:.80} has a threshold; what has is {', '.join(measured)}")
        by, asked = measured[name]
        if not asked:
            raise UsageError(f"a threshold of {name} needs {by}, which measures it")


def cuts(thresholds: Mapping[str, Threshold], name: str) -> tuple[float, float] | None:
    """The two thresholds of a score that is cut in three, or None. Raises UsageError for one alone."""
    found = thresholds.get(name)
    if isinstance(found, float | int):
        raise UsageError(f"{name} is cut in two places, as {name}=LOW:HIGH, not at {found:g} alone")
    return found


def share(thresholds: Mapping[str, Threshold], name: str, default: Default) -> float | Default:
    """The threshold of a score from 0 to 1, or else `default`. Raises UsageError for one that is none."""
    if name not in thresholds:
        return default
    found = thresholds[name]
    if isinstance(found, tuple) or not 0 <= found <= 1:
        raise UsageError(f"the threshold of {name} is a number from 0 to 1, not {found}")
    return found
