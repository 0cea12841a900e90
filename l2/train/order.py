"""Which items a step trains on: a function of (seed, step), not of a live iterator (design.md §4.2)."""

from __future__ import annotations

import functools

import numpy as np


@functools.lru_cache(maxsize=2)
def epoch_order(items: int, seed: int, epoch: int) -> np.ndarray:
    """The permutation [items] in which `epoch` visits them: every item once."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(items)


def step_items(step: int, batch: int, items: int, seed: int, total: int | None = None) -> list[int]:
    """Items of the global batch of `step`: the next `batch` of the endless row of epochs, cut off at `total`."""
    first = step * batch
    last = first + batch if total is None else min(first + batch, total)
    return [int(epoch_order(items, seed, i // items)[i % items]) for i in range(first, last)]
