"""What a run costs: the device's peak (for MFU), energy, and carbon by the paper's formula."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

PUE = 1.1  # of a data centre: all energy over that of its computers (LLaMA-1 §6, which Table 2 follows)
GRAMS_PER_KWH = 385.0  # CO2 equivalent of the grid's average in the USA (same)
CPU_WATTS = 10.0  # of a busy core, where nothing measures it (ours)
GPU_WATTS = 400.0  # of the paper's A100s (§2.2.1), likewise
RAPL = Path("/sys/class/powercap")


def measured_peak(device: torch.device, dtype: torch.dtype, seconds: float = math.inf) -> float:
    """FLOP/s of a large square product in `dtype`, the best of eight: the peak that MFU is measured against.

    seconds: begin no other product after so many.

    Ours: a measured peak is honest on any machine, where a table of names is not.
    """
    size = 8192 if device.type == "cuda" else 1024
    a = torch.ones(size, size, dtype=dtype, device=device)
    best, began = float("inf"), time.perf_counter()
    for _ in range(8):
        start = time.perf_counter()
        if start - began > seconds:
            break
        a @ a
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2.0 * size**3 / best


def carbon(joules: float, pue: float = PUE, grams_per_kwh: float = GRAMS_PER_KWH) -> float:
    """Grams of CO2 equivalent: energy · PUE · intensity of the grid (paper Table 2)."""
    return joules / 3.6e6 * pue * grams_per_kwh


class Energy:
    """Joules since it was made. `source` says how they are known: "nvml", "rapl", or "estimate" from `watts`.

    Of this process alone: of what RAPL counts on a machine, one share of `local` processes that use it.
    """

    def __init__(self, device: torch.device, local: int = 1) -> None:
        self.watts = CPU_WATTS * torch.get_num_threads() if device.type == "cpu" else GPU_WATTS
        self.source, self._read = _counter(device, local) or ("estimate", lambda: time.monotonic() * self.watts)
        self._start = self._read()

    def joules(self) -> float:
        """So far."""
        return self._read() - self._start


def _counter(device: torch.device, local: int) -> tuple[str, Callable[[], float]] | None:
    if device.type == "cuda":
        with suppress(Exception):  # pynvml has an error for each thing that may be missing, itself among them
            import pynvml

            pynvml.nvmlInit()
            uuid = torch.cuda.get_device_properties(device).uuid  # NVML's numbers know no CUDA_VISIBLE_DEVICES
            handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
            pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
            return "nvml", lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3
    counters = [path / "energy_uj" for path in RAPL.glob("intel-rapl:*") if path.name.count(":") == 1]
    if device.type == "cpu" and counters and all(os.access(path, os.R_OK) for path in counters):
        machine = Rapl(counters)
        return "rapl", lambda: machine() / local
    return None


class Rapl:
    """The processors' own meters, which start again from 0 at their end; read at least once before they do twice."""

    def __init__(self, counters: list[Path]) -> None:
        self._counters = counters
        self._range = [float((path.parent / "max_energy_range_uj").read_text()) for path in counters]
        self._last = [float(path.read_text()) for path in counters]
        self._sum = 0.0

    def __call__(self) -> float:
        """Joules since it was made."""
        now = [float(path.read_text()) for path in self._counters]
        for before, after, length in zip(self._last, now, self._range, strict=True):
            self._sum += (after - before) % length
        self._last = now
        return self._sum / 1e6
