"""The checks of `l2 filter` on one part of the input, and what they leave in a directory of their own (ours).

A part's directory holds the documents that pass (kept.jsonl), the ledger rows of the others (rows.jsonl), a row of
INDEX for each document that passes, the tally (part.json), and MinHash keys as a spill. It appears whole or not at all.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from struct import Struct
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from l2.files.atomic import atomic_dir
from l2.files.jsonl import Record, encode_record
from l2.files.ledger import Ledger, source_of
from l2.files.parts import Part, read_part
from l2.files.spills import Spills, write_spill
from l2.text.duplicates import BANDS, band_keys, exact_key, normalised, shingles, signature
from l2.text.lines import KnownLines, NotedLines
from l2.text.pipeline import Dedup, FilterSettings, Reader, Tally, judged, load_checks, passed

# Of a document that passes: where its line in kept.jsonl ends, its line in the input, how many ledger rows come before
# it, its source in part.json's list, and its exact key.
INDEX = np.dtype([("end", "<u8"), ("line", "<u8"), ("rows", "<u4"), ("source", "<u4"), ("exact", "<u8", 2)])
_ENTRY = Struct("<QQII16s")

Bools = npt.NDArray[np.bool_]


class PartWriter:
    """Takes what the checks find in one part; also the writer of their ledger."""

    def __init__(self, directory: Path, dedup: Dedup) -> None:
        self._directory, self._dedup = directory, dedup
        self._kept = open(directory / "kept.jsonl", "wb")  # noqa: SIM115  closed by `finish`
        self._rows = open(directory / "rows.jsonl", "wb")  # noqa: SIM115
        self._end = self._row_count = self._count = 0
        self._sources: dict[str, int] = {}
        self._index, self._keys, self._numbers = bytearray(), bytearray(), list[int]()
        self._seen: set[bytes] = set()

    def write(self, row: Mapping[str, Any]) -> None:
        """Take a row of the ledger."""
        self._rows.write(encode_record(row))
        self._row_count += 1

    def keep(self, document: Record) -> None:
        """Take a document that passes."""
        exact = bytes(16)
        if self._dedup != "none":
            normal = normalised(document["text"])
            exact = exact_key(normal)
            if self._dedup == "minhash" and exact not in self._seen:  # an exact copy needs no other keys
                self._keys += band_keys(signature(shingles(normal))).tobytes()
                self._numbers.append(self._count)
                self._seen.add(exact)
        self._end += self._kept.write(encode_record(document))
        source = self._sources.setdefault(source_of(document), len(self._sources))
        self._index += _ENTRY.pack(self._end, document.line or 0, self._row_count, source, exact)
        self._count += 1

    def finish(self, about: Mapping[str, Any]) -> None:
        """Write down all that is not a line."""
        directory = self._directory
        self._kept.close()
        self._rows.close()
        index = np.frombuffer(self._index, INDEX)
        np.save(directory / "index.npy", index)
        if self._dedup != "none":
            (directory / "exact").mkdir()
            # Keys of 64 bits sort them; whoever finds two equal compares all 128.
            write_spill(directory / "exact", index["exact"][:, :1], np.arange(index.size, dtype=np.uint32))
        if self._dedup == "minhash":
            (directory / "bands").mkdir()
            keys_KB = np.frombuffer(self._keys, np.uint64).reshape(-1, BANDS)
            write_spill(directory / "bands", keys_KB, np.array(self._numbers, np.uint32))
        about = {"kept": self._count, "sources": list(self._sources)} | dict(about)
        (directory / "part.json").write_bytes(orjson.dumps(about))


class Checker:
    """The checks of one process, loaded once and used on one part after another."""

    def __init__(self, settings: FilterSettings) -> None:
        self._settings = settings
        self._tally, self._known = Tally(), KnownLines()
        self._writer: PartWriter
        self._ledger = Ledger(self)
        self._checks = load_checks(settings, self._ledger, self._tally, self._known)

    def write(self, row: Mapping[str, Any]) -> None:
        """Hand a row of the ledger to the part at work."""
        self._writer.write(row)

    def check(self, part: Part, first_L: Bools, directory: Path) -> MappedPart:
        """What the checks find in `part`, in `directory`; of its lines `first_L` are met for the first time.

        Raises BadInput for a line that is no document unless `settings.skip_bad`.
        """
        self._tally.languages.clear()
        self._tally.lines.clear()
        self._tally.perplexity.clear()
        self._known.start(first_L)
        reader = Reader(self._ledger, self._settings.skip_bad)
        documents = reader.documents(read_part(part, reader.on_bad))
        with atomic_dir(directory) as partial:
            self._writer = PartWriter(partial, self._settings.dedup)
            for document in passed(documents, self._checks, self._ledger, self._settings):
                self._writer.keep(document)
            tally = {"languages": dict(self._tally.languages), "lines": dict(self._tally.lines)}
            perplexity = sorted(self._tally.perplexity.items())  # numbers are no keys of JSON
            self._writer.finish({"shown": part.shown, "read": reader.count, "perplexity": perplexity} | tally)
        return MappedPart(directory)


class LineNoter:
    """What --lines dedup reads of a part before the checks: the keys of the lines that it asks about."""

    def __init__(self, settings: FilterSettings) -> None:
        # What stands before the question whether a line is new; other checks come after it.
        before = FilterSettings(
            url_blocklists=settings.url_blocklists,
            lines=settings.lines,
            quality=(),
            dedup="none",
        )
        self._noted, self._ledger = NotedLines(), Ledger()
        self._checks = load_checks(before, self._ledger, Tally(), self._noted)
        self._reader = Reader(self._ledger, settings.skip_bad)

    def note(self, part: Part, directory: Path) -> None:
        """Write the keys of the lines of `part`, in order, as a spill. Raises BadInput as `Checker.check` does."""
        del self._noted.keys[:]
        documents = self._reader.documents(read_part(part, self._reader.on_bad))
        for _ in judged(documents, self._checks, self._ledger):
            pass
        keys_L = np.array(self._noted.keys, np.uint64)
        with atomic_dir(directory) as partial:
            write_spill(partial, keys_L[:, None], np.arange(keys_L.size, dtype=np.uint32))


class MappedPart:
    """A part's directory, read."""

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self.about: dict[str, Any] = orjson.loads((self.directory / "part.json").read_bytes())
        self.index: npt.NDArray[np.void] = np.load(self.directory / "index.npy", mmap_mode="r")

    def __len__(self) -> int:
        return int(self.index.size)

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows of its ledger."""
        with open(self.directory / "rows.jsonl", "rb") as f:
            yield from map(orjson.loads, f)

    def lines(self) -> Iterator[bytes]:
        """The documents that pass, as they are written."""
        with open(self.directory / "kept.jsonl", "rb") as f:
            yield from f

    def record(self, number: int, line: bytes) -> Record:
        """Document `number`, whose line is `line`."""
        return Record(orjson.loads(line), f"{self.about['shown']}:{self.index['line'][number]}")

    def source(self, number: int) -> str:
        """The source of document `number`."""
        name: str = self.about["sources"][self.index["source"][number]]
        return name


class _OpenPart(MappedPart):
    """A part whose documents are asked for one by one."""

    def __init__(self, directory: str) -> None:
        super().__init__(directory)
        self._file = open(self.directory / "kept.jsonl", "rb")  # noqa: SIM115  closed with the part
        self._end = self.index["end"]

    def document(self, number: int) -> Record:
        start = int(self._end[number - 1]) if number else 0
        return self.record(number, os.pread(self._file.fileno(), int(self._end[number]) - start, start))


@dataclass(frozen=True)
class Corpus:
    """The parts of an input, whose documents that pass are numbered through: part i has those from starts[i] on."""

    directories: list[str]
    starts: list[int]

    def __len__(self) -> int:
        return self.starts[-1]

    def parts(self) -> Iterator[MappedPart]:
        """Each part."""
        return map(MappedPart, self.directories)

    def spills(self, name: str) -> Spills:
        """The keys of all documents that are called `name`."""
        return Spills([f"{directory}/{name}" for directory in self.directories], self.starts)

    def at(self, number: int) -> tuple[_OpenPart, int]:
        """The part of document `number`, and its number there."""
        part = bisect_right(self.starts, number) - 1
        return _open_part(self.directories[part]), number - self.starts[part]

    def document(self, number: int) -> Record:
        """Document `number` of all."""
        part, local = self.at(number)
        return part.document(local)


def corpus_of(parts: Iterable[MappedPart]) -> Corpus:
    """The corpus that `parts` make up."""
    directories, counts = [], []
    for part in parts:
        directories.append(str(part.directory))
        counts.append(len(part))
    return Corpus(directories, [0, *accumulate(counts)])


@lru_cache(maxsize=128)
def _open_part(directory: str) -> _OpenPart:
    return _OpenPart(directory)


def forget_open_parts() -> None:
    """Close the parts whose documents were asked for."""
    _open_part.cache_clear()
