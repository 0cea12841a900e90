"""Where to compute, and in what: `--device auto` and `--dtype auto`."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import torch

from l2.files.errors import UsageError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def pick_device(name: str = "auto") -> torch.device:
    """auto: a GPU where there is one. Raises UsageError for a device that this machine lacks."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"--device {name}: no such device; use auto, cpu or cuda[:N]") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"--device {name}: torch finds {torch.cuda.device_count()} GPUs here; use --device cpu")
    return device


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """auto: bfloat16 on a GPU and on CPUs with bf16 instructions, where it is twice as fast; else float32."""
    if name == "auto":
        fast = device.type == "cuda" or (torch.backends.mkldnn.is_available() and _cpu_has_bf16())
        return torch.bfloat16 if fast else torch.float32
    if name not in DTYPES:
        raise UsageError(f"--dtype {name}: use auto, {' or '.join(DTYPES)}")
    return DTYPES[name]


def _cpu_has_bf16() -> bool:
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def keep_memory() -> None:
    """Ask glibc to keep freed memory instead of returning it page by page: a third more speed on a CPU (LOG.md).

    Does nothing where there is no glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return
    mallopt(-4, 0)  # M_MMAP_MAX: no mmap for big blocks
    mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD, bytes


def usable_cores(system: Path = Path("/sys")) -> int:
    """Physical cores that this process may use: two threads of one core count once, and a container's quota holds."""
    logical = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    siblings = [system / f"devices/system/cpu/cpu{cpu}/topology/thread_siblings_list" for cpu in logical]
    cores = len({path.read_text() if path.exists() else path for path in siblings})
    quota = system / "fs/cgroup/cpu.max"  # microseconds in each period, and the period
    if quota.exists() and (pair := quota.read_text().split())[0].isdecimal():
        cores = min(cores, int(pair[0]) // int(pair[1]))
    return max(1, cores)


def use_all_cores() -> int:
    """Set torch's threads to the cores this process may use (OMP_NUM_THREADS decides where set); returns how many."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(usable_cores())
    return torch.get_num_threads()
