"""Finds what a report tells of: runs, results, claims, figures and samples, in directories and files.

What a file holds is told by its first record. Files of other things are passed over; a line that is broken is a
problem that is named, and the others still count.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from math import isfinite, nan
from pathlib import Path
from typing import Any

import orjson

from l2.files.errors import BadInput, L2Error
from l2.files.jsonl import Record, open_input, parse_records, read_records
from l2.files.manifest import MANIFEST, read_manifest
from l2.report.curves import best_of, versions
from l2.report.form import Figure, read_figure

JSONL = (".jsonl", ".jsonl.gz", ".jsonl.zst")
LARGEST_JSON = 1 << 24  # bytes of a .json file that may be a figure
TRIED = 5  # lines, until one says what a file holds
SAMPLES = 100_000  # records read of a file of samples
RESULT, SAMPLE, CLAIM = {"task", "metric", "value"}, {"prompt", "response"}, {"claim", "verdict"}
NOTABLE = ("alarms", "spike", "stopped")  # fields of a log line that people should read
LARGEST_CHECKED = 1 << 34  # bytes of weights or data that are hashed to be recognised


class Log:
    """A training's log.jsonl as columns, NaN where a line lacks a field; `events` are its notable lines."""

    def __init__(self) -> None:
        self.columns: dict[str, array[float]] = {}
        self.events: list[tuple[int, str]] = []
        self.last: dict[str, Any] = {}
        self._count = 0

    def add(self, line: Record) -> None:
        """One more line. Raises BadInput for one without a step."""
        step = line.need("step", int)
        for name, value in line.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                column = self.columns.setdefault(name, array("d"))
                column.extend([nan] * (self._count - len(column)))
                column.append(float(value))
        self._count += 1
        for name in NOTABLE:
            told = line.get(name)
            for text in told.values() if isinstance(told, dict) else [told] if told else []:
                spike = "a spike of the loss or the gradients" + ", skipped" * (text == "skipped")
                self.events.append((step, spike if name == "spike" else text))
        self.last = dict(line)

    def points(self, x: str, y: str) -> tuple[list[float], list[float]]:
        """The values of two columns, in the lines that have both."""
        pairs = zip(self.columns.get(x, ()), self.columns.get(y, ()), strict=False)
        both = [(a, b) for a, b in pairs if isfinite(a) and isfinite(b)]
        return [a for a, _ in both], [b for _, b in both]


@dataclass
class Run:
    """A run directory: its manifest and its log. `name` is short, and its own among the runs of a report."""

    dir: Path
    manifest: dict[str, Any]
    log: Log
    name: str = ""

    @cached_property
    def place(self) -> Path:
        """The directory itself, however it is called."""
        return self.dir.resolve()

    @property
    def stage(self) -> str:
        """The command that made it."""
        command = self.manifest.get("command")
        return str(command[1]) if isinstance(command, list) and len(command) > 1 else "run"

    @property
    def finished(self) -> bool:
        """Whether it is done."""
        return self.manifest.get("status") == "finished"

    @property
    def steps(self) -> int:
        """Optimizer steps, or iterations, so far."""
        return int(self.log.last.get("step", 0))

    @property
    def started(self) -> str:
        """When it began, as ISO 8601."""
        return str(self.manifest.get("started", ""))

    def number(self, name: str) -> float | None:
        """A number of the manifest or, while the run has not come so far, the newest of the log."""
        found, column = self.manifest.get(name), self.log.columns.get(name)
        if isinstance(found, (int, float)) and not isinstance(found, bool):
            return float(found)
        return column[-1] if column else None

    @property
    def inputs(self) -> dict[str, list[tuple[str, str]]]:
        """(path, SHA-256) of what it was made of, by option."""
        named = self.manifest.get("inputs")
        if not isinstance(named, dict):
            return {}
        return {
            option: [(str(pair[0]), str(pair[1])) for pair in pairs if isinstance(pair, list) and len(pair) == 2]
            for option, pairs in named.items()
            if isinstance(pairs, list)
        }

    @cached_property
    def sha256(self) -> str | None:
        """Of its weights, as `model_sha256` has it; None where they are not here (yet), or too large to read again."""
        from l2.model.checkpoint import model_sha256, weight_files

        try:
            if not self.finished or sum(path.stat().st_size for path in weight_files(self.dir)) > LARGEST_CHECKED:
                return None
            return model_sha256(self.dir)
        except (L2Error, OSError):
            return None


@dataclass
class Samples:
    """A file of samples."""

    path: Path
    records: list[Record]


@dataclass
class Found:
    """Everything that was found."""

    runs: list[Run] = field(default_factory=list)
    results: list[Record] = field(default_factory=list)
    history: list[Record] = field(default_factory=list)
    claims: list[Record] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    rewards: list[Figure] = field(default_factory=list)
    samples: list[Samples] = field(default_factory=list)
    filtered: list[tuple[Path, dict[str, Any]]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def note(self, error: BadInput) -> None:
        """Remember what could not be read."""
        self.problems.append(str(error))

    def model_of(self, row: Record) -> str:
        """The run that a result or a sample is of: by the hash of its weights, or else by the name that it gives.

        A name is a path as seen from where the command ran: first that of the file, then those above it. What is no
        run's stays as it is. The file system is asked once for each file and name.
        """
        key = row.where.rpartition(":")[0], str(row.get("model") or ""), str(row.get("model_sha256") or "")
        if key not in self._models:
            self._models[key] = self._model_of(*key)
        return self._models[key]

    @cached_property
    def _models(self) -> dict[tuple[str, str, str], str]:
        return {}

    def _model_of(self, file: str, name: str, sha256: str) -> str:
        if same := next((run for run in self.runs if sha256 and run.sha256 == sha256), None):
            return same.name
        at = Path(file).resolve()
        named = name or str(at.parent)  # what a training drew lies in its own directory
        places = {run.place: run.name for run in reversed(self.runs)}
        return next((places[above / named] for above in at.parents if above / named in places), name or "–")


def gather(paths: Sequence[str | Path]) -> Found:
    """What `paths` hold: directories, with all below them, and files.

    Raises L2Error for a path that is not there, and where nothing was found to report.
    """
    found = Found()
    for path in map(Path, paths):
        if not path.exists():
            raise L2Error(f"{path}: no such file or directory")
        if path.is_file():
            if not _read_file(path, found):
                found.note(BadInput(str(path), "nothing that a report knows", "results, claims, figures or samples"))
            continue
        for directory, run in _directories(path):
            own = {MANIFEST, "log.jsonl"} if run else set()
            for file in sorted(directory.iterdir()):
                if file.is_file() and file.name not in own:
                    _read_file(file, found)
            if run:
                _read_run(directory, found)
    if not any(vars(found).values()):
        raise L2Error(f"{', '.join(map(str, paths))}: no runs, results, claims, figures or samples to report")
    _name(found.runs)
    found.results = _once(found.results)
    found.history = sorted(_once(found.history), key=lambda row: str(row.get("time")))
    return found


def _directories(top: Path) -> Iterator[tuple[Path, bool]]:
    """`top` and the directories in it, and whether each holds a run; hidden ones and a run's checkpoints are not."""
    for name, below, files in os.walk(top):
        run = MANIFEST in files
        below[:] = sorted(each for each in below if not each.startswith(".") and not (run and each == "checkpoints"))
        yield Path(name), run


def _once(rows: Iterable[Record]) -> list[Record]:
    """Rows that stand in several files, as results are put together, count once."""
    return list({orjson.dumps(row, option=orjson.OPT_SORT_KEYS): row for row in rows}.values())


def _name(runs: list[Run]) -> None:
    """Give each run its path below what all have in common."""
    if not runs:
        return
    common = Path(os.path.commonpath([run.place.parent for run in runs]))
    for run in runs:
        run.name = str(run.place.relative_to(common))


def _read_run(directory: Path, found: Found) -> None:
    try:
        manifest = read_manifest(directory)
    except BadInput as error:
        found.note(error)
        return
    except orjson.JSONDecodeError as error:
        found.note(BadInput(str(directory / MANIFEST), f"no valid JSON ({error})", "the manifest of a run"))
        return
    if not isinstance(manifest, dict) or "status" not in manifest:
        found.note(BadInput(str(directory / MANIFEST), "no status", "the manifest of a run"))
        return
    log, path = Log(), directory / "log.jsonl"
    if path.exists():
        for line in _lines(path, found):
            try:
                log.add(line)
            except BadInput as error:
                found.note(error)
    found.runs.append(Run(directory, manifest, log))


def _lines(path: Path, found: Found) -> Iterator[Record]:
    """Records of a log; a last line without its end is still being written, and is left for another time."""
    with open_input(path) as stream:
        whole = (line for line in stream if line.endswith(b"\n"))
        yield from parse_records(whole, str(path), on_bad=found.note)


def _read_file(path: Path, found: Found) -> bool:
    """Add what a file holds; False where that is nothing for a report."""
    if path.name.endswith(".json"):
        return _read_json(path, found)
    if not path.name.endswith(JSONL):
        return False
    try:
        kind = _kind(path)
        if kind is None:
            return False
        if kind == "samples":
            records = [r for r in islice(read_records([path], on_bad=found.note), SAMPLES) if r.keys() >= SAMPLE]
            newest = max((record.get("step", 0) for record in records), default=0)  # of what a training drew
            found.samples.append(Samples(path, [record for record in records if record.get("step", newest) == newest]))
            return True
        history = path.name.startswith("history")
        for record in read_records([path], on_bad=found.note):
            _add_row(record, found, history)
    except BadInput as error:
        found.note(error)
    return True


def _kind(path: Path) -> str | None:
    """ "samples" or "rows" (of results, claims and figures), by the first record that is one; None for other things."""
    with open_input(path) as stream:
        records = parse_records(islice(stream, TRIED), str(path), on_bad=lambda error: None)
        for record in records:
            fields = record.keys()
            if fields >= SAMPLE:
                return "samples"
            if "figure" in record or fields >= RESULT or fields >= CLAIM:
                return "rows"
            return None
    return None


def _add_row(record: Record, found: Found, history: bool) -> None:
    """One result, claim or figure; a result may bring its figure along."""
    fields = record.keys()
    try:
        if "figure" in record:
            found.figures.append(read_figure(record["figure"], record.where))
        if fields >= RESULT:
            record.need("metric"), record.need("task")
            if record["value"] is None:  # as of a part that nothing is in
                return
            record.need("value", (int, float))
            if record.get("stderr") is not None:
                record.need("stderr", (int, float))
            (found.history if history else found.results).append(record)
        elif fields >= CLAIM:
            found.claims.append(record)
        elif "figure" not in record:
            raise BadInput(record.where, f"fields {', '.join(sorted(fields))}", "a result, a claim or a figure")
    except BadInput as error:
        found.note(error)


def _add_figures(path: Path, fields: Any, made: Callable[[Any, str], list[Figure]], found: Found) -> bool:
    """Add the figures that are made of `fields`, each told by its file."""
    try:
        found.rewards += [
            replace(one, title=f"{one.title} ({path.resolve().parent.name}/{path.name})")
            for one in made(fields, str(path))
        ]
    except BadInput as error:
        found.note(error)
    return True


def _read_json(path: Path, found: Found) -> bool:
    if path.stat().st_size > LARGEST_JSON:
        return False
    try:
        fields = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError:
        return False
    if isinstance(fields, list) and fields and all(isinstance(row, dict) and "version" in row for row in fields):
        return _add_figures(path, fields, versions, found)
    if not isinstance(fields, dict):
        return False
    if fields.keys() >= {"curves", "prompts", "k"}:
        return _add_figures(path, fields, best_of, found)
    if "figure" in fields:
        _add_row(Record(fields, str(path)), found, history=False)
        return True
    if fields.keys() >= {"in", "kept", "rejected", "rules"}:
        found.filtered.append((path, fields))
        return True
    return False
