"""Which items a step trains on: a function of (seed, step), not of a live iterator (design.md §4.2)."""

from __future__ import annotations

import functools
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

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


class MixedOrder:
    """The order of several sources' items, each source visited `epochs` times in a pass over all of them.

    A pass is one permutation of all visits, round(epochs · size) to a source of `size` items. The visits of a source,
    counted on from pass to pass, go round its items in a circle: each item has visits / size of them, rounded down
    or up, in every pass, and passes · visits / size, rounded likewise, after any number of whole passes. Where that is
    no whole number the circle is shuffled, so that part of a source is a sample of it and not its head. One source at
    1 epoch is `step_items`. Ours: the paper samples the most factual sources more (§2.1) and doesn't say how; LLaMA-1
    gives epochs (its Table 1).
    Memory: 8 bytes a visit, and 8 an item of a source whose epochs aren't whole.
    """

    def __init__(self, sizes: Sequence[int], epochs: Sequence[float], seed: int) -> None:
        """The items are numbered through: `sizes[0]` of the first source, then those of the second, ..."""
        self.sizes, self.seed = sizes, seed
        self.visits = [round(size * times) for size, times in zip(sizes, epochs, strict=True)]
        self._first = [0, *accumulate(sizes)]
        self._ends = list(accumulate(self.visits))
        self._circles: list[Sequence[int] | np.ndarray] = [
            range(size) if visits % max(1, size) == 0 else _circle(size, seed, source)
            for source, (size, visits) in enumerate(zip(sizes, self.visits, strict=True))
        ]

    def __len__(self) -> int:
        """Visits of one pass."""
        return self._ends[-1]

    def step_items(self, step: int, batch: int) -> list[int]:
        """Items of the global batch of `step`: the next `batch` of the endless row of passes."""
        return [self._item(i) for i in range(step * batch, (step + 1) * batch)]

    def _item(self, i: int) -> int:
        """Item number `i` of the row of passes."""
        done, place = divmod(i, len(self))
        slot = int(epoch_order(len(self), self.seed, done)[place])
        source = bisect_right(self._ends, slot)
        visits = self.visits[source]
        visit = done * visits + slot - (self._ends[source] - visits)
        return self._first[source] + int(self._circles[source][visit % self.sizes[source]])

    def visits_in(self, count: int) -> list[int]:
        """How many of the first `count` visits go to each source."""
        done, rest = divmod(count, len(self))
        seen = done * np.array(self.visits)
        if rest:
            sources = np.searchsorted(self._ends, epoch_order(len(self), self.seed, done)[:rest], side="right")
            seen += np.bincount(sources, minlength=len(seen))
        return [int(n) for n in seen]


def _circle(size: int, seed: int, source: int) -> np.ndarray:
    """A permutation [size]; the counter starts where no epoch's numbers (`epoch_order`, the same key) ever come."""
    return np.random.Generator(np.random.Philox(key=[seed, source], counter=[0, 0, 0, 1])).permutation(size)
