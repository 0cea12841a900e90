"""The work directory of `l2 filter`: what it is for, who is in it, and how much memory there is (ours)."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from l2.files.atomic import remove_partial, write_atomic
from l2.files.errors import UsageError
from l2.files.jsonl import open_input
from l2.files.locks import held, is_foreign
from l2.files.manifest import differences, version
from l2.files.parallel import Engine
from l2.files.parts import BLOCK, data_bytes, is_piped, part_size
from l2.files.spills import KEY_BYTES
from l2.text.pipeline import FilterSettings

MANIFEST = "filter.json"
PROCESS_BYTES = 150 << 20  # of memory: an interpreter with what the checks import, and a part's keys (LOG.md)
TORCH_BYTES = 400 << 20  # of memory: torch, transformers, and the activations of a small model
DOCUMENT_BYTES = 24  # of memory for each document while components of near copies are found
DISK_BYTES = 260  # of keys and index for each document with --dedup minhash, beside the documents themselves
GB = 1e9


@dataclass(frozen=True)
class Resources:
    """What `filter_documents` may use; its results are the same whatever it is.

    work: a directory where finished parts stay, so that a run that was killed goes on there; by default a temporary
    one. memory: GB; by default half of what is free. part_bytes: by default what `part_size` says.
    """

    jobs: int = 1
    engine: Engine = "local"
    work: str | None = None
    memory: float | None = None
    part_bytes: int | None = None

    @property
    def processes(self) -> int:
        """How many processes work at once, with the one that hands out the work."""
        return self.jobs + (self.jobs > 1 or self.engine == "ray")

    def budget(self) -> int:
        """Bytes of memory that may be used."""
        return int(self.memory * GB) if self.memory is not None else free_memory() // 2

    def ranges(self, keys: int) -> int:
        """In how many ranges `keys` keys are sorted, so that every process has room for one."""
        room = (self.budget() - self.processes * PROCESS_BYTES) // self.jobs
        return -(-keys * KEY_BYTES // max(room, PROCESS_BYTES // 2)) or 1

    def check(self, documents: int, models: int) -> int:
        """The bytes of memory that documents and bytes of models need. Raises UsageError where there are fewer."""
        needed = self.processes * PROCESS_BYTES + self.jobs * models + documents * DOCUMENT_BYTES
        if needed > self.budget():
            allowed = "--memory" if self.memory is not None else "half of the free memory,"
            work = f"{documents:,} documents with --jobs {self.jobs} need {needed / GB:.2f} GB"
            raise UsageError(f"{allowed} {self.budget() / GB:.2f} GB is not enough: {work}")
        return needed


RESOURCES = Resources()


def free_memory() -> int:
    """Bytes of memory that nothing else uses; no more than the control group's limit."""
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if os.path.exists("/proc/meminfo"):
        rows = dict(row.split(":") for row in Path("/proc/meminfo").read_text().splitlines())
        free = int(rows["MemAvailable"].split()[0]) << 10
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.exists() and (text := limit.read_text().strip()).isdecimal():
        free = min(free, int(text))
    return free


@dataclass(frozen=True)
class Expected:
    """What a run will take: bytes of input files, documents (about), bytes of memory and of disk."""

    data: int
    documents: int
    memory: int
    allowed: int
    disk: int


def expected(names: Sequence[str], settings: FilterSettings, resources: Resources) -> Expected:
    """What filtering the files `names` will take, from their sizes and the first lines; of pipes nothing is known.

    Raises UsageError where memory will not do.
    """
    data = data_bytes(names)
    documents = 0
    for name in [name for name in names if not is_piped(name)][:1]:
        with open_input(name) as f:
            start = f.read(BLOCK)
        documents = int(data * start.count(b"\n") / max(1, len(start)))
    memory = resources.check(documents, model_bytes(settings))
    return Expected(data, documents, memory, resources.budget(), data + documents * DISK_BYTES)


@contextmanager
def open_work(
    names: Sequence[str], settings: FilterSettings, resources: Resources, shared: bool = False
) -> Iterator[Path]:
    """The work directory of one run: its own, or with `shared` one that other shards use at the same time.

    Raises UsageError where it is another run's, or where an input can't be read twice, and L2Error where another
    process is at work there.
    """
    if resources.work is None:
        if resources.engine == "ray" and os.environ.get("RAY_ADDRESS", "local") != "local":
            raise UsageError("on a Ray cluster every machine must see the same --work directory: name one")
        with tempfile.TemporaryDirectory(prefix="l2-filter-") as temporary:
            yield Path(temporary)
        return
    if piped := [name for name in names if is_piped(name)]:
        raise UsageError(f"{piped[0]}: comes through a pipe, which can't be read again; --work needs files")
    work = Path(resources.work)
    with held(work, "a work", "--work", shared=shared):
        _claim(work, _manifest(names, settings, resources))
        if not shared:
            remove_partial(work)
        yield work


def _manifest(names: Sequence[str], settings: FilterSettings, resources: Resources) -> dict[str, Any]:
    """All that decides what the parts hold: settings, version, inputs and named models with sizes and times."""
    asked = settings.shown()
    files = {
        name: f"{os.path.getsize(name):,} bytes of {os.stat(name).st_mtime_ns}" for name in (*names, *settings.files())
    }
    size = {"part_bytes": resources.part_bytes or part_size(data_bytes(names)), "l2_version": version()}
    manifest: dict[str, Any] = orjson.loads(orjson.dumps(asked | size | {"inputs": list(names)} | files))
    return manifest


def model_bytes(settings: FilterSettings) -> int:
    """Bytes of the files that every process reads into memory, and of torch where one needs it."""
    return sum(map(os.path.getsize, settings.files())) + TORCH_BYTES * settings.needs_torch


def _claim(work: Path, manifest: Mapping[str, Any]) -> None:
    path = work / MANIFEST
    if not path.exists():
        if is_foreign(work, MANIFEST) and not path.exists():  # asked again: another shard may just have claimed it
            raise UsageError(f"{work}: not empty, and no run of l2 filter made it; choose another --work")
        write_atomic(path, orjson.dumps(manifest, option=orjson.OPT_INDENT_2))
    if changed := differences(orjson.loads(path.read_bytes()), manifest):
        raise UsageError(f"{work}: holds another run ({'; '.join(changed[:4])}); choose another --work")
