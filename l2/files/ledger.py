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


class NothingKept(Exception):
    """Raised inside the writer of an output that would be empty, so that it is not written and the ledger is."""


class Ledger:
    """Counts what is dropped by rule (`counts` records, `lines` lines) and, given a writer, writes one row for each."""

    def __init__(self, writer: RecordWriter | None = None) -> None:
        self._writer = writer
        self.counts: Counter[str] = Counter()
        self.lines: Counter[str] = Counter()

    @property
    def total(self) -> int:
        """How many records were dropped so far."""
        return self.counts.total()

    def reject(
        self, record: Mapping[str, Any], rule: str, value: Any = None, threshold: Any = None, line: int | None = None
    ) -> None:
        """Note that `record` (or its `line`, counted from 1) was dropped by `rule`: `value` against `threshold`."""
        self.counts[rule] += 1
        row = {"id": record.get("id"), "source": record.get("source"), "line": line}
        self._write(row | {"rule": rule, "value": value, "threshold": threshold})

    def reject_record(self, record: Record, rule: str, value: Any = None, threshold: Any = None) -> None:
        """`reject` for a record that was read: its line, and its file where it names no source."""
        self.counts[rule] += 1
        self._write(_place(record) | {"rule": rule, "value": value, "threshold": threshold})

    def drop_line(self, record: Record, text_line: int, rule: str, value: Any = None, threshold: Any = None) -> None:
        """Note a line of a record's text (counted from 1) that was dropped, while the record may well be kept."""
        self.lines[rule] += 1
        row = _place(record) | {"text_line": text_line}
        self._write(row | {"rule": rule, "value": value, "threshold": threshold})

    def _write(self, row: Mapping[str, Any]) -> None:
        if self._writer is not None:
            self._writer.write(row)

    def bad_line(self, error: BadInput) -> None:
        """Note an input line that could not be read: the `on_bad` of `read_records` under --on-bad skip."""
        place, _, line = error.where.rpartition(":")
        self.reject({"id": error.where, "source": place}, "bad_line", error.found, error.expected, int(line))


def _place(record: Record) -> dict[str, Any]:
    place, _, line = record.where.rpartition(":")
    return {"id": record.get("id"), "source": record.get("source") or place, "line": int(line)}


@contextmanager
def open_ledger(path: str | Path | None) -> Iterator[Ledger]:
    """A ledger written to `path`, or only counted when `path` is None."""
    with open_writer(path) if path is not None else nullcontext() as writer:
        yield Ledger(writer)
