"""64-bit keys of many items in sorted files: which items share a key is found a range of keys at a time.

A spill holds B bands of keys of up to 2^32 items, each band sorted; many spills, one after the other, number the items
of all. So no process needs more than the keys of one band in one range. Names: B bands, K keys, M members.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.int64]

KEY_BYTES = 72  # of memory for each key of a range while it is grouped: key, number, order, and copies of them


def write_spill(directory: Path, keys_KB: Keys, numbers_K: npt.NDArray[np.uint32]) -> None:
    """The keys of the items `numbers_K`, ascending, as a spill in `directory`."""
    count, bands = keys_KB.shape
    sorted_BK, numbers_BK = np.empty((bands, count), np.uint64), np.empty((bands, count), np.uint32)
    for band in range(bands):
        order = np.argsort(keys_KB[:, band], kind="stable")
        sorted_BK[band], numbers_BK[band] = keys_KB[order, band], numbers_K[order]
    np.save(directory / "keys.npy", sorted_BK)
    np.save(directory / "numbers.npy", numbers_BK)


class Spills(NamedTuple):
    """Spills by their directories; the item n of spill i is number starts[i] + n of all, and there are starts[-1]."""

    directories: list[str]
    starts: list[int]

    def keys_in(self, band: int, index: int, ranges: int) -> tuple[Keys, Numbers]:
        """The keys of one band in range `index` of `ranges` equal ones, and the numbers of their items [K] each.

        Of equal keys the numbers ascend.
        """
        low, high = ((end << 64) // ranges for end in (index, index + 1))
        keys, numbers = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
        for directory, start in zip(self.directories, self.starts, strict=False):  # starts has the end too
            keys_K = np.load(f"{directory}/keys.npy", mmap_mode="r")[band]
            first = int(np.searchsorted(keys_K, np.uint64(low)))
            last = int(np.searchsorted(keys_K, np.uint64(high))) if high < 1 << 64 else keys_K.size
            keys.append(keys_K[first:last])
            numbers.append(np.load(f"{directory}/numbers.npy", mmap_mode="r")[band, first:last] + np.int64(start))
        return np.concatenate(keys), np.concatenate(numbers)


def shared(keys_K: Keys, numbers_K: Numbers) -> tuple[Numbers, Numbers]:
    """(members, the first of those that have its key) [M], of the keys that two items or more have.

    Of equal keys the numbers ascend.
    """
    order = np.argsort(keys_K, kind="stable")
    sorted_K = keys_K[order]
    new = np.ones(order.size, bool)
    np.not_equal(sorted_K[1:], sorted_K[:-1], out=new[1:])
    group = np.cumsum(new) - 1
    starts = np.flatnonzero(new)
    common = np.bincount(group)[group] > 1 if group.size else new
    members = numbers_K[order]
    return members[common], members[starts[group[common]]]


def without(numbers_K: Numbers, dropped: Numbers) -> npt.NDArray[np.bool_]:
    """Which of `numbers_K` are not among `dropped`, which ascend [K]."""
    if not dropped.size:
        return np.ones(numbers_K.size, bool)
    at = np.minimum(np.searchsorted(dropped, numbers_K), dropped.size - 1)
    different: npt.NDArray[np.bool_] = dropped[at] != numbers_K
    return different


def components(edges: list[str], count: int) -> npt.NDArray[np.int64]:
    """The least item of the component that each of `count` items belongs to [count].

    `edges` names files of pairs [2, E] (.npy), which are read one at a time. Labels sink to the least neighbour's, and
    each label to its own label's, until none changes.
    """
    label = np.arange(count)
    changed = True
    while changed:
        changed = False
        for path in edges:
            a, b = np.load(path)
            low = np.minimum(label[a], label[b])
            if np.array_equal(label[a], low) and np.array_equal(label[b], low):
                continue
            changed = True
            for end in (a, b):
                np.minimum.at(label, label[end], low)
                np.minimum.at(label, end, low)
            while not np.array_equal(label, settled := label[label]):
                label = settled
    return label
