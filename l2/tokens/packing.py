"""Several sequences in one row, without seeing one another (design.md §4.4)."""

from __future__ import annotations

from array import array
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from l2.files.errors import UsageError


@dataclass(frozen=True)
class Rows:
    """Rows of indices, one after the other in `indices` [n]; row i is up to `ends[i + 1]`, and `ends[0]` is 0."""

    indices: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, row: int) -> npt.NDArray[np.int64]:
        return self.indices[self.ends[row] : self.ends[row + 1]]

    def __iter__(self) -> Iterator[npt.NDArray[np.int64]]:
        return map(self.__getitem__, range(len(self)))


def pack(lengths: npt.ArrayLike, capacity: int) -> Rows:
    """Best-fit decreasing: rows of indices into `lengths` [n] whose sum is at most `capacity`.

    Each sequence goes, longest first, into the fullest row that still has room. Deterministic, O(n log n) for a
    given capacity; some 40 bytes of memory a sequence. Raises UsageError for a sequence longer than `capacity`.
    """
    sizes = np.asarray(lengths, np.int64)
    if len(sizes) and sizes.max() > capacity:
        raise UsageError(f"a sequence of {sizes.max():,} tokens does not fit into {capacity:,}")
    rooms: list[int] = []  # how much room rows have left: each amount once, ascending
    rows_with: dict[int, array[int]] = {}  # room left: the rows that have it
    longest_first = np.argsort(-sizes, kind="stable")
    row_of = np.empty(len(sizes), np.int64)
    count = 0
    for place, index in enumerate(longest_first):
        length = int(sizes[index])
        at = bisect_left(rooms, length)
        if at == len(rooms):
            room, row = capacity, count
            count += 1
        else:
            room = rooms[at]
            row = rows_with[room].pop()
            if not rows_with[room]:
                del rooms[at]
        row_of[place] = row
        left = rows_with.setdefault(room - length, array("q"))
        if not left:
            insort(rooms, room - length)
        left.append(row)
    by_row = np.argsort(row_of, kind="stable")
    ends = np.concatenate(([0], np.cumsum(np.bincount(row_of, minlength=count))))
    return Rows(longest_first[by_row], ends)


def evened(wanted_BT: npt.NDArray[np.bool_], multiple: int = 64) -> npt.NDArray[np.bool_]:
    """`wanted_BT` with the first other places too, until they are a multiple, or all.

    Libraries plan a product anew for each shape that they have not seen, which takes as long as a small product (ours).
    """
    evened = wanted_BT.ravel().copy()
    evened[np.flatnonzero(~evened)[: -int(evened.sum()) % multiple]] = True
    return evened.reshape(wanted_BT.shape)


def row_positions(lengths: Sequence[int]) -> np.ndarray:
    """Positions, from 0 in each sequence, of a row of sequences; int64 [sum]. They tell the model which is which."""
    counts = np.asarray(lengths, dtype=np.int64)
    starts = np.cumsum(counts) - counts
    return np.arange(counts.sum()) - np.repeat(starts, counts)
