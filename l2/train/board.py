"""OUT/tensorboard: the numbers of log.jsonl where TensorBoard reads them (`--tensorboard`)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from l2.files.errors import L2Error, UsageError
from l2.train.checkpoints import LOG


class Board:
    """What `train` tells of each step, as scalars: one event a step, on disk before the next begins.

    A run that goes on from an earlier step makes TensorBoard forget the later ones; one that has no board yet gets its
    whole log. Written by tensorboardX's record writer itself: its queue of another thread loses events to a kill.
    """

    def __init__(self, out: Path) -> None:
        """Raises UsageError where tensorboardX is not installed; writes nothing before the first line."""
        try:
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto import event_pb2, summary_pb2
        except ImportError:
            raise UsageError("--tensorboard needs tensorboardX: pip install 'l2[tensorboard]'") from None
        self._new, self._events, self._summaries = EventsWriter, event_pb2, summary_pb2
        self._log, self._dir = out / LOG, out / "tensorboard"
        self._writer: Any = None

    def write(self, line: Mapping[str, Any]) -> None:
        """Add a line that log.jsonl has already. Raises L2Error where it can't be written."""
        try:
            if self._writer is None:
                self._open(line)
            else:
                self._add(line)
            self._writer.flush()
        except OSError as error:
            raise L2Error(f"{self._dir}: can't be written ({error.strerror})") from None

    def _open(self, line: Mapping[str, Any]) -> None:
        goes_on = self._dir.is_dir() and any(self._dir.iterdir())
        self._dir.mkdir(exist_ok=True)
        self._writer = self._new(str(self._dir / "events"), f".{time.time_ns()}")  # two lives may begin in one second
        if goes_on:
            start = self._events.SessionLog(status=self._events.SessionLog.START)
            self._writer.write_event(self._events.Event(wall_time=time.time(), step=line["step"], session_log=start))
            self._add(line)
        else:
            for row in self._log.read_bytes().splitlines():
                self._add(orjson.loads(row))

    def _add(self, line: Mapping[str, Any]) -> None:
        numbers = {tag: value for tag, value in line.items() if tag != "step" and isinstance(value, (int, float))}
        values = [self._summaries.Summary.Value(tag=tag, simple_value=value) for tag, value in numbers.items()]
        summary = self._summaries.Summary(value=values)
        self._writer.write_event(self._events.Event(wall_time=time.time(), step=line["step"], summary=summary))
