"""The statistics of evaluation as pure functions. A standard error is of the sampling of items, never of the model."""

from __future__ import annotations

import math
import re
import string
from collections import Counter
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


def squad_form(answer: str) -> str:
    """An answer as SQuAD compares it: lower case, without punctuation, articles and spare spaces."""
    plain = " ".join(answer.lower().split())
    return " ".join(_ARTICLES.sub(" ", plain.translate(_PUNCTUATION)).split())


def normalised(answer: str) -> str:
    """`squad_form`; an answer of which nothing would be left, such as the choice "A", stays as it is (ours)."""
    return squad_form(answer) or " ".join(answer.lower().split())


def exact_match(answer: str, targets: Sequence[str]) -> bool:
    """Whether `answer` is one of `targets`, both `normalised`."""
    return normalised(answer) in map(normalised, targets)


def word_f1(answer: str, target: str) -> float:
    """Harmonic mean of the words' precision and recall, as SQuAD counts them; 1 where both have none."""
    ours, theirs = squad_form(answer).split(), squad_form(target).split()
    if not (ours and theirs):
        return float(ours == theirs)
    return 2 * (Counter(ours) & Counter(theirs)).total() / (len(ours) + len(theirs))


def pass_at_k(n: int, correct: int, k: int) -> float:
    """The chance that one of k answers is right, unbiased, from n >= k with `correct` right ones (Chen et al. 2021)."""
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


def most_frequent(answers: Sequence[str]) -> str:
    """The commonest of `answers` but the empty, the first of equals (majority voting, LLaMA-1 §3.4)."""
    counts = Counter(answer for answer in answers if answer)
    return max(counts, key=counts.__getitem__) if counts else ""


def clustered(values: Sequence[float], clusters: Sequence[str]) -> Estimate:
    """The mean, with a standard error that takes each cluster, such as the questions of a passage, as sampled whole.

    n counts the values.
    """
    sums: dict[str, list[float]] = {}
    for value, cluster in zip(values, clusters, strict=True):
        sums.setdefault(cluster, []).append(value)
    estimate = ratio([math.fsum(some) for some in sums.values()], [len(some) for some in sums.values()])
    return estimate._replace(n=len(values))


def mean_of_estimates(estimates: Sequence[Estimate]) -> Estimate:
    """The mean of independent estimates; its standard error is unknown where one of theirs is."""
    errors = [estimate.stderr for estimate in estimates]
    known = [error for error in errors if error is not None]
    stderr = math.hypot(*known) / len(estimates) if len(known) == len(estimates) else None
    value = math.fsum(estimate.value for estimate in estimates) / len(estimates)
    return Estimate(value, stderr, sum(estimate.n for estimate in estimates))


def probability(logit: float) -> float:
    """σ(logit), without overflow: a raw score on the paper's scale from 0 to 1."""
    return 1 / (1 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1 + math.exp(logit))
