"""Which option a model chooses, from log-likelihoods in nats: an item's `loglikelihoods` to scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from l2.eval.benchmarks.question import Choose, Item, Scores

Weigh = Callable[[Item], Sequence[float]]


def total(item: Item) -> Sequence[float]:
    """The log-likelihoods as they are."""
    values: list[float] = item["loglikelihoods"]
    return values


def per_character(item: Item) -> Sequence[float]:
    """Log-likelihood by character of the option (Llama 1 §3)."""
    return [value / length for value, length in zip(item["loglikelihoods"], item["characters"], strict=True)]


def over_prior(item: Item) -> Sequence[float]:
    """log P(option | context) / P(option | "Answer:") (Llama 1 §3, for OpenBookQA and BoolQ)."""
    return [value - prior for value, prior in zip(item["loglikelihoods"], item["priors"], strict=True)]


def first_of_the_greatest(values: Sequence[float]) -> int:
    """The index of the greatest value, the first of equals."""
    return max(range(len(values)), key=values.__getitem__)


def by(**metrics: Weigh) -> Choose:
    """Accuracy of the greatest weight, one metric for each way of weighing."""

    def choose(item: Item) -> Scores:
        return {name: float(first_of_the_greatest(weigh(item)) in item["right"]) for name, weigh in metrics.items()}

    return choose


def mass(item: Item) -> Scores:
    """TruthfulQA's MC2: the share of probability on right options (Lin et al. 2022)."""
    most = max(item["loglikelihoods"])
    weights = [math.exp(value - most) for value in item["loglikelihoods"]]
    return {"mc2": sum(weights[i] for i in item["right"]) / sum(weights)}
