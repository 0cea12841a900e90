"""What was made of what: runs in order, and the tree from each checkpoint back to its files, told by hashes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson

from l2.files.errors import L2Error
from l2.files.jsonl import Record, read_records
from l2.files.manifest import sha256_file
from l2.report.form import Node, Tree
from l2.report.gather import LARGEST_CHECKED, Run
from l2.tokens.shards import Shard

MODELS = ("model", "reference", "helpful_rm", "safety_rm")  # options that name checkpoints
SHORT = 12  # digits of a hash that people compare


def parents(run: Run, runs: Sequence[Run]) -> list[tuple[str, Run]]:
    """The runs whose weights `run` was made of, each with its option, once.

    By the hash of the weights; one that can't be told by its hash (gone, too large, still training) by its name.
    """
    found: dict[str, tuple[str, Run]] = {}
    for option in MODELS:
        for path, sha256 in run.inputs.get(option, []):
            same = [other for other in runs if other is not run and other.sha256 == sha256]
            named = same or [other for other in _named(path, run, runs) if other.sha256 is None]
            for other in named[:1]:
                found.setdefault(other.name, (option, other))
    return list(found.values())


def _places(path: str, run: Run) -> Iterator[Path]:
    """Where a path of a manifest may be: commands were given it as seen from where they ran, which is not kept."""
    yield Path(path)
    for above in (run.dir, run.dir.parent, *run.place.parent.parents):
        yield above / path


def _named(path: str, run: Run, runs: Sequence[Run]) -> list[Run]:
    """The other runs where a path of `run`'s manifest may be."""
    places = {place.resolve() for place in _places(path, run)}
    return [other for other in runs if other is not run and other.place in places]


def ordered(runs: Sequence[Run]) -> list[Run]:
    """Each run after those it was made of; otherwise as they began."""
    waiting = sorted(runs, key=lambda run: (run.started, run.name))
    before = {run.name: {parent.name for _, parent in parents(run, runs)} for run in waiting}
    done: list[Run] = []
    while waiting:
        names = {run.name for run in done}
        ready = next((run for run in waiting if before[run.name] <= names), waiting[0])  # manifests may be forged
        waiting.remove(ready)
        done.append(ready)
    return done


def ancestors(run: Run, runs: Sequence[Run]) -> list[Run]:
    """What `run` was tuned from, nearest first: by its `model` alone, since judges are no ancestors."""
    found: list[Run] = []
    at: Run | None = run
    while at is not None:
        at = next((parent for option, parent in parents(at, runs) if option == "model"), None)
        if at is run or at in found:
            break
        if at is not None:
            found.append(at)
    return found


def lineage(runs: Sequence[Run]) -> Tree:
    """Every checkpoint that no other was made of, and below it what it was made of, back to the files.

    What stands there already is pointed at, from within the tree alone.
    """
    used = {parent.name for run in runs for _, parent in parents(run, runs)}
    told: set[str] = set()
    ends = [run for run in reversed(ordered(runs)) if run.name not in used]
    return Tree(
        "From each checkpoint back to its files", [_node(r, "", runs, told) for r in ends if r.name not in told]
    )


def _node(run: Run, option: str, runs: Sequence[Run], told: set[str]) -> Node:
    role = f"{option.replace('_', ' ')}: " if option else ""
    text = f"{role}{run.name} ({run.stage})"
    if run.name in told:
        return Node(text, "as above", to=run.name)
    told.add(run.name)
    made = [_node(parent, option, runs, told) for option, parent in parents(run, runs)]
    hashes = {parent.sha256 for _, parent in parents(run, runs)}
    for option, pairs in run.inputs.items():
        for path, sha256 in dict.fromkeys(pairs):
            if option not in MODELS:
                made.append(_file(option.replace("_", " "), path, sha256, run, runs, told))
            elif sha256 not in hashes:
                made.append(Node(f"{option.replace('_', ' ')}: {path}", _model_note(path, sha256, run, runs)))
    return Node(text, f"weights {run.sha256[:SHORT]}" if run.sha256 else "", made, key=run.name)


def _model_note(path: str, sha256: str, run: Run, runs: Sequence[Run]) -> str:
    """Of a model that no run here has the weights of."""
    named = next(iter(_named(path, run, runs)), None)
    if named is not None and named.sha256 is not None:
        return f"was {sha256[:SHORT]}; {named.name} has other weights now"
    return f"{sha256[:SHORT]}; " + ("not told by its hash" if named else "no run here made it")


def _file(role: str, path: str, sha256: str, run: Run, runs: Sequence[Run], told: set[str]) -> Node:
    """A file and, where a note of the stage that made it stands beside it (shell/story/stage.py), what that was."""
    text, note = f"{role}: {path}", _file_note(path, sha256, run)
    at = next((place for place in _places(path, run) if place.is_file()), None)
    made = _stage(at) if at is not None else {}
    if made.get("output") != sha256 or f"{at}" in told:
        return Node(text, note)
    told.add(f"{at}")
    children = []
    for name, digest in made["inputs"].items():
        parent = next((other for other in runs if other.sha256 == digest), None)
        children.append(_node(parent, "by", runs, told) if parent else _file("of", name, str(digest), run, runs, told))
    return Node(text, note, children)


def _stage(path: Path) -> dict[str, Any]:
    """The note of the stage that made a file, or nothing."""
    note = path.with_name(path.name + ".stage.json")
    try:
        found = orjson.loads(note.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return {}
    return found if isinstance(found, dict) and isinstance(found.get("inputs"), dict) else {}


def _file_note(path: str, sha256: str, run: Run) -> str:
    """The hash of a data file and whether the file still has it; what a shard, or its first record, says of itself."""
    short = sha256[:SHORT]
    at = next((place for place in _places(path, run) if place.is_file()), None)
    if at is None:
        return f"{short}; not here"
    try:
        if at.suffix == ".bin":
            shard = Shard(at)
            state = "as it was" if shard.checksum in ("", sha256) else "changed since"
            return f"{short}, {state}; {shard.token_count:,} tokens of {shard.documents:,} documents"
        if at.stat().st_size > LARGEST_CHECKED:
            return f"{short}; there, but too large to be read again"
        if sha256_file(at) != sha256:
            return f"{short}; changed since"
        return f"{short}, as it was{_maker(at)}"
    except (L2Error, OSError):
        return f"{short}; can't be read"


def _maker(path: Path) -> str:
    """The model that answered, where the first record of a file says so."""
    if not path.name.endswith((".jsonl", ".jsonl.gz", ".jsonl.zst")):
        return ""
    first: Record = next(read_records([path]))
    return f"; answers of {first['model']}" if isinstance(first.get("model"), str) else ""
