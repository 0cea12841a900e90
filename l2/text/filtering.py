"""`l2 filter` on a whole corpus: documents in, documents worth training on out, one ledger row a loss.

The input is cut into parts (l2/files/parts.py), the checks are a function from a part to a directory
(l2/text/mapped.py), copies are found from the keys that stand there (l2/text/copies.py), and one reader of all parts
writes what is left, in input order. Who does what part, and when, changes nothing. Where no part need wait for
another, and one process works alone, documents stream through without touching the disk.
"""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import accumulate, islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson

from l2.files.atomic import write_atomic
from l2.files.errors import UsageError
from l2.files.jsonl import STDIO, RecordWriter, expand, no_records, read_records, write_encoded
from l2.files.ledger import KEPT, Ledger, source_of
from l2.files.parallel import ordered_map
from l2.files.parts import (
    Extent,
    Measure,
    Part,
    data_bytes,
    extents,
    is_piped,
    lay_down,
    measure,
    part_size,
    parts_of,
)
from l2.files.progress import OnProgress, ignore
from l2.files.spills import Spills, shared
from l2.text.copies import (
    NO_COPIES,
    Copies,
    Map,
    complete,
    find_copies,
    repeated,
    save,
    without_copies,
    without_large_clusters,
)
from l2.text.duplicates import NORMALISATION
from l2.text.mapped import Bools, Checker, Corpus, LineNoter, MappedPart, corpus_of, forget_open_parts
from l2.text.pipeline import FilterSettings, Reader, Tally, load_checks, passed
from l2.text.workplace import RESOURCES, Resources, model_bytes, open_work


def filter_documents(
    paths: Sequence[str | Path],
    writer: RecordWriter,
    ledger: Ledger,
    settings: FilterSettings,
    resources: Resources = RESOURCES,
    *,
    on_progress: OnProgress = ignore,
) -> dict[str, Any]:
    """Write to `writer` the documents of `paths` (none: stdin) worth training on; the rest goes to `ledger`.

    Copies come last, so that of those the survivor is always kept. Returns the report: {in, kept, rejected, rules,
    sources, lines, languages, perplexity, held_back, settings, normalisation}, where in = kept + rejected, by source
    and for lines too. Raises BadInput for a line that is no document unless `settings.skip_bad`, UsageError where
    `resources` don't suffice or another run's, and what `load_checks` raises.
    """
    names = expand(paths or (STDIO,))
    tally = Tally()
    copies = NO_COPIES
    if resources == RESOURCES and settings.dedup != "minhash":
        read = _stream(names, writer, ledger, settings, tally, on_progress)
    else:
        with open_work(names, settings, resources) as directory:
            work = Work(directory, names, settings, resources)
            with closing(_told(work.mapped(), on_progress)) as mapped:  # whatever fails, processes end first
                if settings.dedup == "none":
                    read = merge(work.cleared(mapped), NO_COPIES, None, writer, ledger, tally)
                else:
                    corpus = corpus_of(mapped)
                    copies = work.copies(corpus)
                    read = merge(corpus.parts(), copies, corpus, writer, ledger, tally)
        forget_open_parts()
        if not read:
            raise no_records(names)
    on_progress(read, read, f"{ledger.total:,} rejected")
    kept = sum(counts[KEPT] for counts in ledger.sources.values())
    assert read == kept + ledger.total, "every document is kept or in the ledger"
    assert tally.lines["in"] == tally.lines["kept"] + ledger.lines.total(), "so is every line"
    return _report(read, ledger, tally, settings) | {"held_back": [held._asdict() for held in copies.held_back]}


def _stream(
    names: Sequence[str],
    writer: RecordWriter,
    ledger: Ledger,
    settings: FilterSettings,
    tally: Tally,
    on_progress: OnProgress,
) -> int:
    """Write each document as soon as it is read; returns how many were read."""
    reader = Reader(ledger, settings.skip_bad, on_progress)
    read = reader.documents(read_records(names, on_bad=reader.on_bad))
    documents = passed(read, load_checks(settings, ledger, tally), ledger, settings)
    for document in without_copies(documents, ledger) if settings.dedup == "exact" else documents:
        writer.write(document)
        ledger.keep(source_of(document))
    return reader.count


def merge(
    parts: Iterable[MappedPart],
    copies: Copies,
    corpus: Corpus | None,
    writer: RecordWriter,
    ledger: Ledger,
    tally: Tally,
) -> int:
    """Write what `parts` hold, in input order, without `copies` (of `corpus`); returns how many were read."""
    read = number = 0
    dropped = copies.in_order()
    next_copy = next(dropped, None)
    for part in parts:
        read += part.about["read"]
        tally.languages.update(part.about["languages"])
        tally.lines.update(part.about["lines"])
        tally.perplexity.update(dict(part.about["perplexity"]))
        rows = part.rows()
        taken = 0
        names = part.about["sources"]
        columns = (part.index[name].tolist() for name in ("rows", "source"))
        for local, (line, before, source) in enumerate(zip(part.lines(), *columns, strict=True)):
            for row in islice(rows, before - taken):
                ledger.take(row)
            taken = before
            if next_copy is not None and next_copy[0] == number:
                assert corpus is not None
                ledger.reject_record(part.record(local, line), *repeated(corpus, *next_copy[1:]))
                next_copy = next(dropped, None)
            else:
                write_encoded(writer, line)
                ledger.keep(names[source])
            number += 1
        for row in rows:
            ledger.take(row)
    return read


@dataclass(frozen=True)
class Shard:
    """Shard `index` (from 1) of `count`: a run of neighbouring parts."""

    index: int
    count: int

    def of(self, total: int) -> range:
        """Which of `total` things are its own."""
        return range((self.index - 1) * total // self.count, self.index * total // self.count)


class ShardDone(NamedTuple):
    """A shard did its `parts` of the `total`: they are checked, or their lines are noted only."""

    parts: int
    total: int
    checked: bool


def filter_shard(
    paths: Sequence[str | Path],
    settings: FilterSettings,
    resources: Resources,
    shard: Shard,
    *,
    on_progress: OnProgress = ignore,
) -> ShardDone:
    """Do in `resources.work` what one shard can do alone.

    With "dedup" in lines the first call notes the lines of its parts, and the second, after the first of all shards,
    checks them; without, one call does. `filter_documents` then does the rest. Raises what it raises.
    """
    if resources.work is None:
        raise UsageError("a shard needs a --work directory that all shards see")
    if not 1 <= shard.index <= shard.count:
        raise UsageError(f"there is no shard {shard.index} of {shard.count}: they count from 1")
    names = expand(paths or (STDIO,))
    with open_work(names, settings, resources, shared=True) as directory:
        work = Work(directory, names, settings, resources, turn=(shard.index - 1) / shard.count)
        total = sum(map(len, work.cut))
        own = shard.of(total)
        if "dedup" in settings.lines:
            work.note(work.parts(own))
            if not all(work.lines_of(number).exists() for number in range(total)):
                return ShardDone(len(own), total, checked=False)
        for _ in _told(work.check(work.parts(own), total), on_progress):
            pass
    return ShardDone(len(own), total, checked=True)


class Work:
    """The steps of a run in its directory. What a killed run has finished is not done again."""

    def __init__(
        self, directory: Path, names: Sequence[str], settings: FilterSettings, resources: Resources, turn: float = 0
    ) -> None:
        """`turn`, from 0 to 1: where among tasks that all shards need this one begins; it leaves out what is done."""
        resources.check(0, model_bytes(settings))
        self._turn = turn
        self.directory, self.names, self.settings, self.resources = directory, names, settings, resources
        part_bytes = resources.part_bytes or part_size(data_bytes(names))
        self.cut = [[] if is_piped(name) else extents(name, part_bytes) for name in names]
        for name in ("sizes", "lines", "parts"):
            (directory / name).mkdir(exist_ok=True)

    def _map(self, size: int, enough: int) -> Map:
        """`ordered_map` as `resources` say; without other processes where `size` is less than `enough`."""
        if size < enough:
            return lambda make, tasks: map(make(), tasks)
        return functools.partial(ordered_map, jobs=self.resources.jobs, engine=self.resources.engine)

    def parts(self, wanted: range | None = None) -> Iterator[tuple[int, Part]]:
        """(number, part) of the input in order, or of those `wanted`: then nothing is measured but their files."""
        starts = list(accumulate(map(len, self.cut), initial=0))
        needed = [wanted is None or (wanted.start < b and a < wanted.stop) for a, b in pairwise(starts)]
        self._measure([file for file, is_needed in enumerate(needed) if is_needed and len(self.cut[file]) > 1])
        number = 0
        for file, name in enumerate(self.names):
            if not needed[file] and not is_piped(name):
                number += len(self.cut[file])
                continue
            stem = self.directory / f"piped-{file}"
            for part in lay_down(name, stem) if is_piped(name) else self._parts_of(file):
                if wanted is None or number in wanted:
                    yield number, part
                number += 1

    def _turned(self, tasks: Mapping[Path, Any]) -> dict[Path, Any]:
        items = list(tasks.items())
        first = int(len(items) * self._turn)
        return dict(items[first:] + items[:first])

    def _sizes_of(self, file: int) -> dict[Path, Extent]:
        return {self.directory / "sizes" / f"{file:06}-{i:06}.json": part for i, part in enumerate(self.cut[file])}

    def _measure(self, files: Sequence[int]) -> None:
        tasks = {path: extent for file in files for path, extent in self._sizes_of(file).items()}
        complete(
            self._map(sum(extent.end - extent.start for extent in tasks.values()), 1 << 30),
            _measurer,
            self._turned(tasks),
        )

    def _parts_of(self, file: int) -> list[Part]:
        several = len(self.cut[file]) > 1
        measures = [Measure(*orjson.loads(path.read_bytes())) for path in self._sizes_of(file)] if several else []
        return parts_of(self.cut[file], measures)

    def lines_of(self, number: int) -> Path:
        """Where the keys of the lines of a part are."""
        return self.directory / "lines" / f"{number:06}"

    def note(self, parts: Iterable[tuple[int, Part]]) -> None:
        """Note the lines of `parts`."""
        tasks = {self.lines_of(number): part for number, part in parts}
        complete(self._map(1, 1), functools.partial(_noter, self.settings), tasks)

    def _seen_lines(self, total: int) -> SeenBefore:
        """Which lines of all parts, which are all noted, were read before."""
        directories = [str(self.lines_of(number)) for number in range(total)]
        counts = (np.load(f"{directory}/numbers.npy", mmap_mode="r").shape[1] for directory in directories)
        spills = Spills(directories, list(accumulate(counts, initial=0)))
        ranges = self.resources.ranges(spills.starts[-1])
        tasks = {self.directory / "lines" / f"seen-{i}-of-{ranges}.npy": (i, ranges) for i in range(ranges)}
        files = complete(self._map(spills.starts[-1], 1_000_000), functools.partial(_seer, spills), self._turned(tasks))
        return SeenBefore(spills.starts, files)

    def check(self, parts: Iterable[tuple[int, Part]], total: int) -> Iterator[MappedPart]:
        """The `parts`, checked; of `total` parts, which with --lines dedup are all noted."""
        seen = self._seen_lines(total) if "dedup" in self.settings.lines else None
        tasks = ((self.directory / "parts" / f"{number:06}", number, part) for number, part in parts)
        # Pieces of a pipe are our own, and not needed any more.
        make = functools.partial(_checker, self.settings, seen, self.directory)
        run = functools.partial(ordered_map, jobs=self.resources.jobs, engine=self.resources.engine)
        return map(MappedPart, run(make, tasks))

    def mapped(self) -> Iterator[MappedPart]:
        """All parts, checked, in order."""
        if "dedup" not in self.settings.lines:
            return self.check(self.parts(), 0)
        parts = list(self.parts())
        self.note(parts)
        return self.check(parts, len(parts))

    def cleared(self, parts: Iterable[MappedPart]) -> Iterator[MappedPart]:
        """`parts`, each of which goes when the next is asked for, unless the directory is to stay."""
        for part in parts:
            yield part
            if self.resources.work is None:
                shutil.rmtree(part.directory)

    def copies(self, corpus: Corpus) -> Copies:
        """The copies in `corpus`."""
        self.resources.check(len(corpus), model_bytes(self.settings))
        near = self.settings.dedup == "minhash"
        run = self._map(len(corpus), 100_000)
        copies = find_copies(corpus, near, self.directory / "copies", run, self.resources.ranges(len(corpus)))
        return without_large_clusters(corpus, copies)


class SeenBefore(NamedTuple):
    """Part i holds the lines from starts[i] on; `files` name those of all that were read before."""

    starts: list[int]
    files: list[Path]

    def first(self, number: int) -> Bools:
        """For each line of a part, whether it comes for the first time."""
        start, end = self.starts[number : number + 2]
        first = np.ones(end - start, bool)
        for path in self.files:
            seen = np.load(path, mmap_mode="r")
            a, b = np.searchsorted(seen, (start, end))
            first[seen[a:b] - start] = False
        return first


def _measurer() -> Callable[[tuple[Path, Extent]], None]:
    return lambda item: write_atomic(item[0], orjson.dumps([*measure(item[1])]))


def _noter(settings: FilterSettings) -> Callable[[tuple[Path, Part]], None]:
    noter = LineNoter(settings)
    return lambda item: noter.note(item[1], item[0])


def _seer(spills: Spills) -> Callable[[tuple[Path, tuple[int, int]]], None]:
    def see(item: tuple[Path, tuple[int, int]]) -> None:
        members, firsts = shared(*spills.keys_in(0, *item[1]))
        save(item[0], np.sort(members[members != firsts]))

    return see


def _checker(settings: FilterSettings, seen: SeenBefore | None, work: Path) -> Callable[[tuple[Path, int, Part]], Path]:
    checker = functools.cache(lambda: Checker(settings))  # where all parts are done, no model is loaded

    def check(item: tuple[Path, int, Part]) -> Path:
        path, number, part = item
        if not path.exists():
            checker().check(part, seen.first(number) if seen else NO_LINES, path)
            if Path(part.path).parent == work:
                os.unlink(part.path)
        return path

    return check


NO_LINES = np.zeros(0, bool)


def _told(parts: Iterable[MappedPart], on_progress: OnProgress) -> Generator[MappedPart]:
    read = rejected = 0
    for part in parts:
        read += part.about["read"]
        rejected += part.about["read"] - part.about["kept"]
        on_progress(read, None, f"{rejected:,} rejected")
        yield part


def percentiles(values: Mapping[float, int]) -> dict[str, float]:
    """Where CCNet cuts (§3.4): the least of the counted `values` that 30 %, and 60 %, do not exceed."""
    total, reached, found = sum(values.values()), 0, dict[str, float]()
    for value, count in sorted(values.items()):
        reached += count
        for percent in (30, 60):
            if 100 * reached >= percent * total:
                found.setdefault(f"p{percent}", value)
    return found


def _report(read: int, ledger: Ledger, tally: Tally, settings: FilterSettings) -> dict[str, Any]:
    dropped = {"dropped": ledger.lines.total(), "rules": dict(ledger.lines.most_common())}
    sources = {source: _by_source(counts) for source, counts in ledger.sources.items()}
    return {
        "in": read,
        "kept": read - ledger.total,
        "rejected": ledger.total,
        "rules": dict(ledger.counts.most_common()),
        "sources": dict(sorted(sources.items(), key=lambda item: (-item[1]["in"], item[0]))),
        "lines": {"in": tally.lines["in"], "kept": tally.lines["kept"]} | dropped,
        "languages": dict(tally.languages.most_common()),
        "perplexity": percentiles(tally.perplexity) if tally.perplexity else None,
        "settings": settings.shown(),
        "normalisation": NORMALISATION,
    }


def _by_source(counts: Mapping[str, int]) -> dict[str, Any]:
    rules = {rule: count for rule, count in sorted(counts.items()) if rule != KEPT}
    rejected = sum(rules.values())
    return {"in": counts[KEPT] + rejected, "kept": counts[KEPT], "rejected": rejected, "rules": rules}
