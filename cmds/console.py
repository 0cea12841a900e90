"""What people see on stderr: a bar on a terminal, a plain line now and then otherwise, nothing with --quiet."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from l2.files.errors import UsageError

PLAIN_SECONDS = 15.0  # between two plain lines


def from_environment(name: str, default: int, least: int) -> int:
    """A number that torchrun puts into the environment. Raises UsageError for anything else."""
    text = os.environ.get(name, str(default))
    if not text.isdecimal() or int(text) < least:
        raise UsageError(f"{name} is {text!r} in the environment: expected a number, {least} or more")
    return int(text)


def rank_and_world() -> tuple[int, int]:
    """Which of how many processes torchrun started this one as; (0, 1) without it."""
    return from_environment("RANK", 0, 0), from_environment("WORLD_SIZE", 1, 1) if "RANK" in os.environ else 1


class Console:
    """One command's voice on stderr. Of the processes that torchrun started the first alone speaks."""

    def __init__(self, command: str, quiet: bool = False) -> None:
        self.command, self.quiet = command, quiet or rank_and_world()[0] > 0

    def say(self, message: str) -> None:
        """Print one line, led by the command's name."""
        if not self.quiet:
            print(f"l2 {self.command}: {message}", file=sys.stderr, flush=True)

    @contextmanager
    def progress(self, unit: str) -> Iterator[Progress]:
        """Show progress while the block runs; the library calls what is yielded with (done, total, note)."""
        shown: Progress
        if self.quiet:
            yield Progress()
        elif sys.stderr.isatty():
            shown = _Bar(self.command, unit)
            try:
                yield shown
            finally:
                shown.close()
        else:
            shown = _Lines(self, unit)
            yield shown
            shown.close()


class Progress:
    """Callable as the library's `on_progress(done, total, note)`. This one shows nothing."""

    def __call__(self, done: float, total: float | None = None, note: str = "") -> None:
        """Note that `done` of `total` units are done; `note` is a short extra such as the loss."""

    def close(self) -> None:
        """The work has ended."""


class _Lines(Progress):
    def __init__(self, console: Console, unit: str) -> None:
        self._console, self._unit = console, unit
        self._start = self._last = time.monotonic()
        self._text = self._done = self._note = ""

    def __call__(self, done: float, total: float | None = None, note: str = "") -> None:
        now = time.monotonic()
        rate = done / max(now - self._start, 1e-9)
        of = f"/{total:,.0f}" if total else ""
        left = f", {_clock((total - done) / rate)} left" if total and rate else ""
        self._done, self._note = f"{done:,.0f}{of} {self._unit}", note
        self._text = f"{self._done}, {rate:,.1f}/s{left}{', ' + note if note else ''}"
        if now - self._last >= PLAIN_SECONDS:
            self._console.say(self._text)
            self._last = now

    def close(self) -> None:
        if self._text:
            note = f", {self._note}" if self._note else ""
            self._console.say(f"{self._done} in {_clock(time.monotonic() - self._start)}{note}")


class _Bar(Progress):
    def __init__(self, command: str, unit: str) -> None:
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self._start = time.monotonic()
        self._rich = RichProgress(
            TextColumn(f"{command:<10}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(f"{unit}  {{task.fields[rate]}}/s  {{task.fields[note]}}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=RichConsole(stderr=True),
        )
        self._task = self._rich.add_task(command, total=None, rate="", note="")
        self._rich.start()

    def __call__(self, done: float, total: float | None = None, note: str = "") -> None:
        rate = done / max(time.monotonic() - self._start, 1e-9)
        self._rich.update(self._task, completed=done, total=total, rate=f"{rate:,.1f}", note=note)

    def close(self) -> None:
        self._rich.stop()


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
