"""One stage of a plan: run a command unless what it made still stands, made by it from the same inputs.

    python stage.py OUT [INPUT...] -- COMMAND...

OUT is the file or run directory that COMMAND writes. OUT.stage.json tells by what command and from inputs of which
hashes it was made, and its own hash. All as it was: nothing to do. The command or an input changed: OUT is made anew,
and so is what depends on it. Killed in the middle: the same command goes on.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson

from l2.files.atomic import write_atomic
from l2.files.errors import L2Error
from l2.files.manifest import sha256_file


def fingerprint(path: Path) -> str:
    """SHA-256 of a file, or of the weights of a run directory: of what was made, not of when."""
    if not path.is_dir():
        return sha256_file(path)
    weights = sorted(path.glob("*.safetensors"))
    if not weights:
        raise L2Error(f"{path}: a directory without weights; was the stage before it finished?")
    return " ".join(sha256_file(file) for file in weights)


def stands(out: Path, made: dict[str, Any], known: dict[str, Any]) -> bool:
    """Whether `out` is what the command makes of these inputs."""
    same = all(known.get(name) == made[name] for name in made)
    return same and "output" in known and out.exists() and fingerprint(out) == known["output"]


def run_stage(out: Path, inputs: list[str], command: list[str]) -> int:
    """Run `command` unless `out` stands; returns its exit status."""
    if out.exists() and not (out.is_file() or out.is_dir()):
        raise L2Error(f"{out}: neither a file nor a directory; a stage makes one")
    note = out.with_name(out.name + ".stage.json")
    made = {"command": command, "inputs": {name: fingerprint(Path(name)) for name in inputs}}
    known = orjson.loads(note.read_bytes()) if note.exists() else {}
    if stands(out, made, known):
        return 0
    begun = all(known.get(name) == made[name] for name in made) and "output" not in known
    if out.is_dir() and not begun:
        shutil.rmtree(out)
    elif not begun:
        out.unlink(missing_ok=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(note, orjson.dumps(made, option=orjson.OPT_INDENT_2))
    if status := subprocess.run(command, stdout=sys.stderr).returncode:
        return status
    if not out.exists():
        raise L2Error(f"{out}: the command ended well and did not write it")
    write_atomic(note, orjson.dumps(made | {"output": fingerprint(out)}, option=orjson.OPT_INDENT_2))
    return 0


def main(words: list[str]) -> int:
    """See above."""
    if "--" not in words[1:] or words[-1] == "--":
        print("stage.py: use stage.py OUT [INPUT...] -- COMMAND...", file=sys.stderr)
        return 2
    at = words.index("--")
    try:
        return run_stage(Path(words[0]), words[1:at], words[at + 1 :])
    except (L2Error, OSError) as error:
        print(f"stage.py: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
