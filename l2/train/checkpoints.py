"""OUT/checkpoints/step-NNNNNN: everything a run needs to go on exactly (design.md §2, §4.1)."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson
from safetensors.torch import save_file
from torch import Tensor

from l2.files.atomic import atomic_dir, write_atomic
from l2.model.checkpoint import read_tensors

OPTIMIZER, STATE, LOG = "optimizer.safetensors", "state.json", "log.jsonl"


def save_step(
    out: Path,
    step: int,
    save_models: Callable[[Path], None],
    optimizer: Mapping[str, Tensor],
    state: Mapping[str, Any],
    keep: int = 2,
) -> Path:
    """Write checkpoints/step-NNNNNN in one rename, then delete all but the newest `keep`; returns its path."""
    path = out / "checkpoints" / f"step-{step:06d}"
    with atomic_dir(path) as partial:
        save_models(partial)
        save_file(dict(optimizer), partial / OPTIMIZER)
        (partial / STATE).write_bytes(orjson.dumps(dict(state) | {"step": step}, option=orjson.OPT_INDENT_2))
    for old in _steps(out)[:-keep]:
        shutil.rmtree(old)
    return path


def _steps(out: Path) -> list[Path]:
    found = [p for p in (out / "checkpoints").glob("step-*") if re.fullmatch(r"step-\d{6,}", p.name)]
    return sorted(found, key=lambda p: int(p.name[5:]))


def latest_step(out: Path) -> Path | None:
    """The newest checkpoint of a run, or None."""
    found = _steps(out)
    return found[-1] if found else None


def load_step(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The optimizer's tensors and the state of a checkpoint; its models are loaded by model/checkpoint.py."""
    state: dict[str, Any] = orjson.loads((path / STATE).read_bytes())
    return read_tensors(path / OPTIMIZER), state


class Log:
    """OUT/log.jsonl. Opened at step N, it forgets the lines of later steps that a killed run had written."""

    def __init__(self, out: Path, step: int) -> None:
        self.path = out / LOG
        self.last: dict[str, Any] = {}
        kept: list[bytes] = []
        for row in self.path.read_bytes().splitlines(keepends=True) if self.path.exists() else ():
            # A kill may have torn the last line.
            if row.endswith(b"\n") and (line := orjson.loads(row))["step"] <= step:
                kept.append(row)
                self.last = line
        write_atomic(self.path, b"".join(kept))

    def write(self, line: Mapping[str, Any]) -> None:
        """Append one line."""
        with open(self.path, "ab", buffering=0) as f:
            f.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
        self.last = dict(line)
