"""run.json: what a directory was made of, and whether the same command is finished, unfinished or another."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from l2.files.atomic import remove_partial, write_atomic
from l2.files.errors import BadInput, UsageError
from l2.files.jsonl import encode_record
from l2.files.locks import LOCK, held, is_foreign

MANIFEST = "run.json"

# What a run is made of, by the option that names it: (path, SHA-256) of each file or model, in order.
Inputs = Mapping[str, Sequence[tuple[str, str]]]


def now() -> str:
    """The time, UTC, to the second, as ISO 8601 writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def version() -> str:
    """The installed version of l2."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return installed("l2")
    except PackageNotFoundError:
        return "0+source"


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file, as hex."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def sha256_records(records: Iterable[Any]) -> str:
    """SHA-256 of records that came through a pipe and have no file, as hex."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(encode_record(record))
    return digest.hexdigest()


def read_manifest(directory: str | Path) -> dict[str, Any] | None:
    """The manifest of a run directory, or None where there is none. Raises BadInput for a broken one."""
    path = Path(directory) / MANIFEST
    try:
        manifest: dict[str, Any] = orjson.loads(path.read_bytes())
        if {"status", "settings", "inputs", "seconds"} <= manifest.keys():
            return manifest
    except FileNotFoundError:
        return None
    except (orjson.JSONDecodeError, AttributeError):
        pass
    raise BadInput(str(path), "no manifest of a run", "what l2 wrote there; remove the directory to start again")


class Run:
    """An output directory while its command runs. `state` is "new", "unfinished" or "finished"."""

    def __init__(self, directory: Path, manifest: dict[str, Any], state: str) -> None:
        self.dir, self.manifest, self.state = directory, manifest, state
        self._started = time.monotonic() - manifest["seconds"]

    def save(self, **fields: Any) -> None:
        """Add `fields` to the manifest and write it, with the seconds spent so far over all restarts."""
        self.manifest |= {"seconds": round(time.monotonic() - self._started, 3)} | fields
        write_atomic(self.dir / MANIFEST, orjson.dumps(self.manifest, option=orjson.OPT_INDENT_2))

    def finish(self, **fields: Any) -> None:
        """Mark the run as done: a later call of the same command has nothing to do."""
        self.save(status="finished", finished=now(), **fields)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two manifests, as parts of a sentence."""
    keys = sorted(old.keys() | new.keys())
    return [f"{k}: {_shown(old.get(k))} there, {_shown(new.get(k))} asked" for k in keys if old.get(k) != new.get(k)]


def _shown(value: Any) -> str:
    """A setting, or the inputs of one option ([path, SHA-256] each), short enough for a sentence."""
    if isinstance(value, list):
        return " ".join(f"{part[0]} ({part[1][:8]})" if isinstance(part, list) else str(part) for part in value)
    return str(value)


@contextmanager
def open_run(out: str | Path, settings: Mapping[str, Any], inputs: Inputs, *, overwrite: bool = False) -> Iterator[Run]:
    """Take hold of the output directory `out` for one run of a command.

    settings: everything that decides the result; inputs: data and parent models, see `Inputs`.
    The directory is locked while the block runs. An earlier run with other settings or inputs raises
    UsageError unless `overwrite`, which starts from nothing. Raises L2Error when another process holds it.
    """
    out = Path(out)
    with held(out, "an output", "--out"):
        old = read_manifest(out)
        if old is None and is_foreign(out, MANIFEST):
            raise UsageError(f"{out}: not empty, and no run of l2 made it; choose another --out")
        remove_partial(out)
        # Through JSON and back, so that tuples and paths compare as they were stored.
        identity = orjson.loads(orjson.dumps({"settings": dict(settings), "inputs": dict(inputs)}, default=str))
        if old is not None and (overwrite or old["status"] == "emptying"):
            # Killed before the new manifest stands, the next call goes on emptying.
            write_atomic(out / MANIFEST, orjson.dumps(old | {"status": "emptying"}))
            _empty(out)
            old = None
        if old is not None:
            changed = [text for part in ("settings", "inputs") for text in differences(old[part], identity[part])]
            if changed:
                raise UsageError(
                    f"{out}: holds another run ({'; '.join(changed[:4])}); choose another --out or give --overwrite"
                )
            yield Run(out, old, "finished" if old["status"] == "finished" else "unfinished")
            return
        manifest = {
            "status": "running",
            "command": sys.argv,
            "l2_version": version(),
            "started": now(),
            "seconds": 0.0,
        }
        run = Run(out, manifest | identity, "new")
        run.save()
        yield run


def _empty(directory: Path) -> None:
    for path in directory.iterdir():
        if path.name in (LOCK, MANIFEST):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            os.unlink(path)
