"""Which items a step trains on: a function of (seed, step), not of a live iterator (design.md §4.2).

Permutations are functions too (a Feistel network, Luby & Rackoff 1988): no table of a corpus stands in memory.
"""

from __future__ import annotations

import functools
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import numpy as np

ROUNDS = 6
AT_ONCE = 2**20  # places looked up at once


@functools.lru_cache(maxsize=64)
def _keys(seed: int, number: int, kind: int) -> np.ndarray:
    random = np.random.Generator(np.random.Philox(key=[seed, number], counter=[0, 0, 0, kind]))
    return random.integers(2**64, size=ROUNDS, dtype=np.uint64)


def mixed(x: np.ndarray) -> np.ndarray:
    """splitmix64's finalizer (Steele et al. 2014): every bit of the result depends on every bit of x, uint64 [N]."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))


def shuffled(places: np.ndarray, items: int, seed: int, number: int, kind: int = 0) -> np.ndarray:
    """What stands at `places` [N] of the permutation of range(items) that (seed, number, kind) names, int64 [N].

    The halves of the bits of a place take turns in being changed by a function of the other, which can be undone and
    hence is a permutation of a power of four; a result beyond `items` is sent through again until it is none.
    """
    half = np.uint64(max(1, ((items - 1).bit_length() + 1) // 2))
    low, keys = np.uint64((1 << int(half)) - 1), _keys(seed, number, kind)
    x = np.asarray(places, dtype=np.uint64).copy()
    out = np.ones(len(x), dtype=bool)
    while out.any():
        left, right = x[out] >> half, x[out] & low
        for key in keys:
            left, right = right, left ^ (mixed(right + key) & low)
        x[out] = (left << half) | right
        out = x >= items
    return x.astype(np.int64)


@functools.lru_cache(maxsize=2)
def epoch_order(items: int, seed: int, epoch: int) -> np.ndarray:
    """The whole permutation [items] in which `epoch` visits them: every item once."""
    return shuffled(np.arange(items), items, seed, epoch)


def step_items(step: int, batch: int, items: int, seed: int, total: int | None = None) -> list[int]:
    """Items of the global batch of `step`: the next `batch` of the endless row of epochs, cut off at `total`."""
    first = step * batch
    last = first + batch if total is None else min(first + batch, total)
    items_of: list[int] = _row(first, last, items, seed).tolist()
    return items_of


def _row(first: int, last: int, items: int, seed: int) -> np.ndarray:
    """Places `first` to `last` (excluded) of the endless row of permutations of range(items), int64."""
    parts = [np.empty(0, dtype=np.int64)]
    while first < last:
        epoch, place = divmod(first, items)
        count = min(last - first, items - place)
        parts.append(shuffled(np.arange(place, place + count), items, seed, epoch))
        first += count
    return np.concatenate(parts)


class MixedOrder:
    """The order of several sources' items, each source visited `epochs` times in a pass over all of them.

    A pass is one permutation of all visits, round(epochs · size) to a source of `size` items. The visits of a source,
    counted on from pass to pass, go round its items in a circle: each item has visits / size of them, rounded down
    or up, in every pass, and passes · visits / size, rounded likewise, after any number of whole passes. Where that is
    no whole number the circle is shuffled, so that part of a source is a sample of it and not its head. One source at
    1 epoch is `step_items`. Ours: the paper samples the most factual sources more (§2.1) and doesn't say how; LLaMA-1
    gives epochs (its Table 1). Memory: none that grows with the items.
    """

    def __init__(self, sizes: Sequence[int], epochs: Sequence[float], seed: int) -> None:
        """The items are numbered through: `sizes[0]` of the first source, then those of the second, ..."""
        self.sizes, self.seed = sizes, seed
        self.visits = [round(size * times) for size, times in zip(sizes, epochs, strict=True)]
        self._first = [0, *accumulate(sizes)]
        self._ends = list(accumulate(self.visits))

    def __len__(self) -> int:
        """Visits of one pass."""
        return self._ends[-1]

    def step_items(self, step: int, batch: int) -> list[int]:
        """Items of the global batch of `step`: the next `batch` of the endless row of passes."""
        slots = _row(step * batch, (step + 1) * batch, len(self), self.seed).tolist()
        return [self._item((step * batch + i) // len(self), slot) for i, slot in enumerate(slots)]

    def _item(self, done: int, slot: int) -> int:
        """The item visited by `slot` of the pass after `done` others."""
        source = bisect_right(self._ends, slot)
        visits, size = self.visits[source], self.sizes[source]
        place = (done * visits + slot - (self._ends[source] - visits)) % size
        if visits % size:
            place = int(shuffled(np.array([place]), size, self.seed, source, kind=1)[0])
        return self._first[source] + place

    def visits_in(self, count: int) -> list[int]:
        """How many of the first `count` visits go to each source."""
        done, rest = divmod(count, len(self))
        seen = done * np.array(self.visits)
        for first in range(count - rest, count, AT_ONCE):
            slots = _row(first, min(count, first + AT_ONCE), len(self), self.seed)
            seen += np.bincount(np.searchsorted(self._ends, slots, side="right"), minlength=len(seen))
        return [int(n) for n in seen]
