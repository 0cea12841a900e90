"""Several sequences in one row, without seeing one another (design.md §4.4)."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence

import numpy as np

from l2.files.errors import UsageError


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Best-fit decreasing: rows of indices into `lengths` whose sum is at most `capacity`.

    Each sequence goes, longest first, into the fullest row that still has room. Deterministic, O(n log n) for a
    given capacity. Raises UsageError for a sequence longer than `capacity`.
    """
    rows: list[list[int]] = []
    rooms: list[int] = []  # how much room rows have left: each amount once, ascending
    rows_with: dict[int, list[int]] = {}  # room left: the rows that have it
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        length = lengths[index]
        if length > capacity:
            raise UsageError(f"a sequence of {length:,} tokens does not fit into {capacity:,}")
        at = bisect_left(rooms, length)
        if at == len(rooms):
            room, row = capacity, len(rows)
            rows.append([])
        else:
            room = rooms[at]
            row = rows_with[room].pop()
            if not rows_with[room]:
                del rooms[at]
        rows[row].append(index)
        left = rows_with.setdefault(room - length, [])
        if not left:
            insort(rooms, room - length)
        left.append(row)
    return rows


def row_positions(lengths: Sequence[int]) -> np.ndarray:
    """Positions, from 0 in each sequence, of a row of sequences; int64 [sum]. They tell the model which is which."""
    counts = np.asarray(lengths, dtype=np.int64)
    starts = np.cumsum(counts) - counts
    return np.arange(counts.sum()) - np.repeat(starts, counts)
