"""The statistics of evaluation as pure functions. A standard error is of the sampling of items, never of the model."""

from __future__ import annotations

import math
import re
import string
from collections.abc import Mapping, Sequence
from typing import NamedTuple

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


class Estimate(NamedTuple):
    """A value, its standard error (None for a single item), of how many independent items, and a 95 % interval.

    curve: columns of numbers behind the value, for a figure.
    """

    value: float
    stderr: float | None
    n: int
    interval: tuple[float, float] | None = None
    curve: Mapping[str, Sequence[float]] | None = None


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Estimate:
    """R = Σy / Σx of items (y, x), with the ratio estimator's √(n/(n-1) Σ(y - Rx)²) / Σx (Cochran 1977, §6.3).

    An item is what was sampled as one: a document of x bytes, or a dialog of x turns (a clustered standard
    error). Raises ValueError when Σx is 0.
    """
    n, total = len(numerators), math.fsum(denominators)
    if total == 0:
        raise ValueError("a ratio to nothing")
    value = math.fsum(numerators) / total
    if n < 2:
        return Estimate(value, None, n)
    squares = math.fsum((y - value * x) ** 2 for y, x in zip(numerators, denominators, strict=True))
    return Estimate(value, math.sqrt(n / (n - 1) * squares) / total, n)


def mean(values: Sequence[float]) -> Estimate:
    """The mean with s / √n; of outcomes 0 and 1 that is the binomial √(p(1 - p) / (n - 1))."""
    return ratio(values, [1.0] * len(values))


def wilson(successes: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's interval for a proportion, 95 % by default (Wilson 1927); too wide where ties count half."""
    p = successes / n
    scale = 1 + z * z / n
    centre = (p + z * z / (2 * n)) / scale
    reach = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / scale
    # The ends are exact where p is 0 or 1, which rounding would miss.
    return 0.0 if successes == 0 else centre - reach, 1.0 if successes == n else centre + reach


def win_rate(ours: Sequence[float], theirs: Sequence[float]) -> Estimate:
    """How often the first of each two scores is the higher, ties counted half, with Wilson's interval."""
    wins = [preferred(a, b) for a, b in zip(ours, theirs, strict=True)]
    return mean(wins)._replace(interval=wilson(sum(wins), len(wins)))


def preferred(ours: float, theirs: float) -> float:
    """1 when the first score is the higher, ½ for a tie, 0 otherwise."""
    return 0.5 if ours == theirs else float(ours > theirs)


def likeliest(loglikelihoods: Sequence[float], choices: Sequence[str]) -> int:
    """The choice of the highest log-likelihood per character, the first of equals (Llama 1, §3; protocols.md §1)."""
    return max(range(len(choices)), key=lambda i: loglikelihoods[i] / len(choices[i]))


def normalised(answer: str) -> str:
    """An answer as SQuAD compares it: lower case, without punctuation, articles and spare spaces.

    An answer of which nothing would be left, such as the choice "A", stays as it is (ours).
    """
    plain = " ".join(answer.lower().split())
    return " ".join(_ARTICLES.sub(" ", plain.translate(_PUNCTUATION)).split()) or plain


def exact_match(answer: str, targets: Sequence[str]) -> bool:
    """Whether `answer` is one of `targets`, both `normalised`."""
    return normalised(answer) in map(normalised, targets)
