"""The reject ledger: one row for everything dropped, so that in = kept + rejected (design.md §2).

Records and single lines of their texts are counted apart; the row of a line has a `text_line`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from l2.files.errors import BadInput
from l2.files.jsonl import Record, RecordWriter, open_writer

KEPT = "kept"
MAX_SOURCES = 10_000  # that are counted apart (ours), where every page may be a source of its own
OTHER_SOURCES = "(other sources)"


class NothingKept(Exception):
    """Raised inside the writer of an output that would be empty, so that it is not written and the ledger is."""


class Ledger:
    """Counts what is dropped by rule (`counts` records, `lines` lines) and, given a writer, writes one row for each.

    `sources` has both by source, {source: {"kept": n, rule: n, ...}}: the first MAX_SOURCES met, the others as one.
    """

    def __init__(self, writer: RecordWriter | None = None) -> None:
        self._writer = writer
        self.counts: Counter[str] = Counter()
        self.lines: Counter[str] = Counter()
        self.sources: dict[str, Counter[str]] = {}

    @property
    def total(self) -> int:
        """How many records were dropped so far."""
        return self.counts.total()

    def take(self, row: Mapping[str, Any]) -> None:
        """Count and write a row that was made already: of a line where it has a `text_line`, else of a record."""
        if "text_line" in row:
            self.lines[row["rule"]] += 1
        else:
            self.counts[row["rule"]] += 1
            self._of(row["source"])[row["rule"]] += 1
        if self._writer is not None:
            self._writer.write(row)

    def keep(self, source: str | None) -> None:
        """Count a record of `source` that is kept."""
        self._of(source)[KEPT] += 1

    def _of(self, source: str | None) -> Counter[str]:
        name = str(source)
        if name not in self.sources and len(self.sources) >= MAX_SOURCES:
            name = OTHER_SOURCES
        return self.sources.setdefault(name, Counter())

    def reject(
        self, record: Mapping[str, Any], rule: str, value: Any = None, threshold: Any = None, line: int | None = None
    ) -> None:
        """Note that `record` (or its `line`, counted from 1) was dropped by `rule`: `value` against `threshold`."""
        row = {"id": record.get("id"), "source": record.get("source"), "line": line}
        self.take(row | {"rule": rule, "value": value, "threshold": threshold})

    def reject_record(self, record: Record, rule: str, value: Any = None, threshold: Any = None) -> None:
        """`reject` for a record that was read: its line, and its file where it names no source."""
        self.take(_place(record) | {"rule": rule, "value": value, "threshold": threshold})

    def drop_line(self, record: Record, text_line: int, rule: str, value: Any = None, threshold: Any = None) -> None:
        """Note a line of a record's text (counted from 1) that was dropped, while the record may well be kept."""
        row = _place(record) | {"text_line": text_line}
        self.take(row | {"rule": rule, "value": value, "threshold": threshold})

    def bad_line(self, error: BadInput) -> None:
        """Note an input line that could not be read: the `on_bad` of `read_records` under --on-bad skip."""
        place, _, line = error.where.rpartition(":")
        self.reject({"id": error.where, "source": place}, "bad_line", error.found, error.expected, int(line))


def source_of(record: Record) -> str:
    """The source that a record names, or the file it was read from."""
    return str(_source(record))


def _source(record: Record) -> Any:
    return record.get("source") or record.file


def _place(record: Record) -> dict[str, Any]:
    return {"id": record.get("id"), "source": _source(record), "line": record.line}


@contextmanager
def open_ledger(path: str | Path | None) -> Iterator[Ledger]:
    """A ledger written to `path`, or only counted when `path` is None."""
    with open_writer(path) if path is not None else nullcontext() as writer:
        yield Ledger(writer)
