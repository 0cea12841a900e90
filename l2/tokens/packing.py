"""Several sequences in one row, without seeing one another (design.md §4.4)."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from typing import TYPE_CHECKING

from l2.files.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Best-fit decreasing: rows of indices into `lengths` whose sum is at most `capacity`.

    Each sequence goes, longest first, into the fullest row that still has room. Deterministic, O(n log n).
    Raises UsageError for a sequence longer than `capacity`.
    """
    rows: list[list[int]] = []
    free: list[tuple[int, int]] = []  # (room left, row), sorted
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = lengths[index]
        if length > capacity:
            raise UsageError(f"a sequence of {length} tokens does not fit into {capacity}")
        at = bisect_left(free, (length, -1))
        if at == len(free):
            room, row = capacity, len(rows)
            rows.append([])
        else:
            room, row = free.pop(at)
        rows[row].append(index)
        insort(free, (room - length, row))
    return rows


def document_mask(segments_BT: Tensor) -> Tensor:
    """Who may look at whom, bool [B, 1, T, T]: earlier or equal positions of the same segment."""
    import torch

    T = segments_BT.shape[1]
    causal = torch.ones(T, T, dtype=torch.bool, device=segments_BT.device).tril()
    same = segments_BT[:, :, None] == segments_BT[:, None, :]
    return (same & causal)[:, None]
