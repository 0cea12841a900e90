"""Speed of a run: tokens a second, and the share of what this device can compute (MFU)."""

from __future__ import annotations

import time

import torch


def measured_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a large square product in `dtype`, the best of ten: the peak that MFU is measured against.

    Ours: a measured peak is honest on any machine, where a table of names is not.
    """
    size = 8192 if device.type == "cuda" else 2048
    a = torch.ones(size, size, dtype=dtype, device=device)
    best = float("inf")
    for _ in range(10):
        start = time.perf_counter()
        a @ a
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2.0 * size**3 / best
