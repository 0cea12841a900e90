"""C++ compiled where a compiler is at hand, once on a machine."""

from __future__ import annotations

import ctypes
import os
import platform
import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import xxhash

from l2.files.atomic import write_atomic
from l2.files.errors import L2Error

HEADER = Path(__file__).with_name("scalars.h")  # what several sources include
FLAGS = ["-std=gnu++17", "-O3", "-march=native", "-shared", "-fPIC"]
# sums may be taken in any order, so that they can be vectorised; -ffast-math would also flush denormals in all of torch
SUMS = ["-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math"]


def _processor() -> str:
    """What tells machines apart that must not share code compiled for one of them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())


def compiler() -> list[str]:
    """The command that compiles: $CXX, or c++."""
    return shlex.split(os.environ.get("CXX") or "c++")


def cache() -> Path:
    """Where what was built stays."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "l2")


def compiler_works() -> str | None:
    """The first line of the compiler's --version, where it builds a library with OpenMP; else None."""
    with suppress(OSError, subprocess.SubprocessError), tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "try.cpp")
        source.write_text('#include <omp.h>\nextern "C" int threads() { return omp_get_max_threads(); }\n')
        command = [*compiler(), *FLAGS, "-fopenmp", str(source), "-o", str(source.with_suffix(".so"))]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        told = subprocess.run([*compiler(), "--version"], check=True, capture_output=True, text=True, timeout=60)
        return told.stdout.partition("\n")[0]
    return None


def compiled(source: Path, flags: Sequence[str] = ()) -> ctypes.CDLL | None:
    """The library of one source file, from the user's cache where it was built before; None where it can't be built."""
    key = "\n".join([source.read_text(), HEADER.read_text(), *FLAGS, *flags, *compiler(), _processor()])
    built = cache() / f"{source.stem}-{xxhash.xxh3_64_hexdigest(key.encode())}.so"
    with suppress(OSError):  # not there, or broken: built anew
        return ctypes.CDLL(str(built))
    with suppress(OSError, subprocess.SubprocessError), tempfile.TemporaryDirectory() as folder:
        made = Path(folder, built.name)
        command = [*compiler(), *FLAGS, *flags, f"-I{HEADER.parent}", str(source), "-o", str(made)]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        with suppress(OSError, L2Error):  # a home that can't be written to: built anew in each process
            write_atomic(built, made.read_bytes())
        return ctypes.CDLL(str(made))
    return None
