"""What the best of N answers is worth, from K ≥ N that were drawn: order statistics (paper §3.2.3, Figures 7 and 8).

The mean over all subsets of N of the K answers, in closed form: unbiased, and of less variance than any one subset.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any


def rank_weights(k: int, n: int, rank: int) -> list[float]:
    """The chance of each of `k` values in ascending order to be the `rank`-th smallest (from 1) of `n` drawn of them.

    C(i-1, rank-1) · C(k-i, n-rank) / C(k, n) of the i-th.
    """
    every = math.comb(k, n)
    return [math.comb(i, rank - 1) * math.comb(k - 1 - i, n - rank) / every for i in range(k)]


def max_weights(k: int, n: int) -> list[float]:
    """`rank_weights` of the greatest."""
    return rank_weights(k, n, n)


def median_weights(k: int, n: int) -> list[float]:
    """`rank_weights` of the median, which is the mean of the two in the middle where `n` is even."""
    low, high = (rank_weights(k, n, rank) for rank in ((n + 1) // 2, n // 2 + 1))
    return [(a + b) / 2 for a, b in zip(low, high, strict=True)]


def weighted(weights: Sequence[float], values: Sequence[float]) -> float:
    """Σ w·v."""
    return math.fsum(w * v for w, v in zip(weights, values, strict=True))


def best_of_kl(n: int) -> float:
    """log n - (n - 1)/n: what the best of n is away from the policy in nats at most, and with no ties exactly.

    Of the KL divergence; Hilton and Gao 2022, Beirami et al. 2024.
    """
    return math.log(n) - (n - 1) / n


def _mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    return fmean(values), stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def curve(groups: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Scores of K answers to each prompt: mean over prompts of their maximum and median for N = 1 .. K.

    With standard errors over prompts, None for one prompt alone.
    """
    k = len(groups[0])
    ordered = [sorted(group) for group in groups]
    found: dict[str, Any] = {"n": list(range(1, k + 1))}
    for name, weigh in (("max", max_weights), ("median", median_weights)):
        weights = [weigh(k, n) for n in found["n"]]
        both = [_mean_and_error([weighted(row, group) for group in ordered]) for row in weights]
        found[name], found[f"{name}_stderr"] = (list(column) for column in zip(*both, strict=True))
    return found
