"""The board on disk: every event is there before the board moves on, and after a kill the board stands as it stood.

Beside the preferences stands their journal, NAME.journal.jsonl, to which events are added; nothing is ever taken from
it, also not by an undo. The preferences are made from it and hold what was not undone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson

from l2.align.annotation.board import Board, Event
from l2.files.errors import L2Error, UsageError
from l2.files.journal import Journal, read_whole
from l2.files.jsonl import encode_record, write_records
from l2.files.manifest import differences, version


def journal_path(output: str | Path) -> Path:
    """Where the journal of the preferences at `output` is. Raises UsageError for what can't grow line by line."""
    path = Path(output)
    if path.suffix != ".jsonl":
        raise UsageError(f"-o {output}: name a file ending in .jsonl, to which each choice is added at once")
    return path.with_suffix(".journal.jsonl")


def live(events: list[Event]) -> list[Event]:
    """The events that were not undone, without the undoing."""
    undone = {event["undoes"] for event in events if event["event"] == "undo"}
    return [event for event in events if event["event"] not in ("start", "undo") and event["n"] not in undone]


class Desk:
    """A board, its journal and its preferences; take `lock` to look at the board or to change it.

    settings: what decides which items there are. Raises UsageError where the journal is of other settings, or where
    there are preferences without a journal; L2Error where another process writes to it.
    """

    def __init__(
        self, board: Board, output: str | Path, settings: Mapping[str, Any], clock: Callable[[], float] = time.time
    ) -> None:
        self.board, self.output, self.clock, self.lock = board, Path(output), clock, threading.RLock()
        path = journal_path(output)
        if self.output.exists() and not path.exists():
            raise UsageError(f"{output}: stands there without its journal {path.name}; choose another -o")
        self.journal = Journal(path)
        self._behind = False  # whether the preferences lack what the journal has
        try:
            self._resume(settings)
        except BaseException:
            self.close()
            raise

    def _resume(self, settings: Mapping[str, Any]) -> None:
        settings = orjson.loads(orjson.dumps(settings))  # as they are read again
        events = self.journal.events
        if not events:
            start = {"event": "start", "n": 0, "time": self.clock(), "l2_version": version(), "settings": settings}
            self.journal.append(start)
        elif changed := differences(events[0].get("settings", {}), settings):
            raise UsageError(f"{self.output}: holds other work ({'; '.join(changed[:4])}); choose another -o")
        for event in events[1:]:
            self.board.apply(event)
        self.board.release()
        self._publish()

    def do(self, event: Event, *, sync: bool = True) -> None:
        """Put an event on disk (later, without `sync`), then lead the board on by it."""
        self.journal.append(event, sync=sync)
        self.board.apply(event)
        try:
            if event["event"] == "undo" or self._behind:
                self._publish()
            elif "record" in event:
                with open(self.output, "ab") as f:
                    f.write(encode_record(event["record"]))
        except (OSError, L2Error):
            self._behind = True  # nothing is lost: the journal has it, and the next event tries again

    def events(self) -> list[Event]:
        """All events that count, in order."""
        return live([dict(event) for event in self.journal.events])

    def _publish(self) -> None:
        write_records(self.output, self.board.records.values())
        self._behind = False

    def close(self) -> None:
        """Let others write to the journal. Raises OSError or L2Error where the preferences can't catch up with it."""
        try:
            if self._behind:
                self._publish()
        finally:
            self.journal.close()


def read_events(output: str | Path) -> list[Event]:
    """The events that count of the preferences at `output`; somebody may be adding to them."""
    path = journal_path(output)
    if not path.exists():
        raise L2Error(f"{path}: no such file")
    return live([dict(event) for event in read_whole(path.read_bytes(), path)[0]])
