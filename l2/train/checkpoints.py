"""OUT/checkpoints/step-NNNNNN: everything a run needs to go on exactly (design.md §2, §4.1)."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson
from torch import Tensor

from l2.files.atomic import atomic_dir, write_atomic
from l2.files.errors import BadInput, L2Error
from l2.model.checkpoint import read_json, read_tensors, write_tensors

OPTIMIZER, STATE, LOG, SAMPLES = "optimizer.safetensors", "state.json", "log.jsonl", "samples.jsonl"


def save_step(
    out: Path,
    step: int,
    save_models: Callable[[Path], None],
    optimizer: Mapping[str, Tensor],
    state: Mapping[str, Any],
    keep: int = 2,
    keep_every: int = 0,
) -> Path:
    """Write checkpoints/step-NNNNNN in one rename, then delete all but the newest `keep`; returns its path.

    Multiples of `keep_every` steps, unless that is 0, are never deleted. Raises L2Error, and leaves the others alone,
    where it can't be written.
    """
    path = out / "checkpoints" / f"step-{step:06d}"
    try:
        with atomic_dir(path) as partial:
            save_models(partial)
            write_tensors(dict(optimizer), partial / OPTIMIZER)
            (partial / STATE).write_bytes(orjson.dumps(dict(state) | {"step": step}, option=orjson.OPT_INDENT_2))
    except OSError as error:
        raise L2Error(f"{path}: can't be saved ({error.strerror}); earlier checkpoints are as they were") from None
    for old in _steps(out)[:-keep]:
        if not keep_every or _step_of(old) % keep_every:
            _remove(old)
    return path


def _remove(path: Path) -> None:
    """Delete a checkpoint: under another name first, so that a kill in the middle leaves none that looks whole."""
    gone = path.with_name(f".{path.name}.old-{os.getpid()}")
    os.replace(path, gone)
    shutil.rmtree(gone)


def _step_of(path: Path) -> int:
    return int(path.name[5:])


def _steps(out: Path) -> list[Path]:
    found = [p for p in (out / "checkpoints").glob("step-*") if re.fullmatch(r"step-\d{6,}", p.name)]
    return sorted(found, key=_step_of)


def latest_step(out: Path) -> Path | None:
    """The newest checkpoint of a run, or None."""
    found = _steps(out)
    return found[-1] if found else None


def load_step(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The optimizer's tensors and the state of a checkpoint; its models are loaded by model/checkpoint.py.

    Raises L2Error for a file that is missing, BadInput for one that is broken.
    """
    return read_tensors(path / OPTIMIZER), read_json(path / STATE)


class Log:
    """OUT/log.jsonl or samples.jsonl. Opened at step N, it forgets what a killed run had written of later steps."""

    def __init__(self, out: Path, step: int, writes: bool = True, name: str = LOG) -> None:
        """`writes`: False in every rank but the first; name: of another file of lines with a step."""
        self.path, self.writes = out / name, writes
        self.last: dict[str, Any] = {}
        kept: list[bytes] = []
        for row in self.path.read_bytes().splitlines(keepends=True) if self.path.exists() else ():
            # A kill may have torn the last line.
            if row.endswith(b"\n") and (line := self._line(row))["step"] <= step:
                kept.append(row)
                self.last = line
        if writes and (kept or name == LOG or self.path.exists()):
            write_atomic(self.path, b"".join(kept))

    def _line(self, row: bytes) -> dict[str, Any]:
        try:
            line = orjson.loads(row)
        except orjson.JSONDecodeError:
            line = None
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            return line
        raise BadInput(str(self.path), f"the line {row[:40]!r}", "lines as a training writes them, each with its step")

    def write(self, line: Mapping[str, Any]) -> None:
        """Append one line."""
        self.last = dict(line)
        if not self.writes:
            return
        try:
            with open(self.path, "ab", buffering=0) as f:
                f.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
        except OSError as error:
            raise L2Error(f"{self.path}: can't be written ({error.strerror})") from None
