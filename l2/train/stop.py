"""SIGTERM and SIGINT as a wish that a training loop grants between two steps."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopWish:
    """`name` is the signal that asked to stop, or None."""

    def __init__(self) -> None:
        self.name: str | None = None

    def hear(self, number: int, _frame: FrameType | None) -> None:
        """Remember the signal; a second one acts at once, as it would have without us."""
        self.name = signal.Signals(number).name
        signal.signal(number, signal.SIG_DFL)


@contextmanager
def stop_wish() -> Iterator[StopWish]:
    """Listen for SIGTERM and SIGINT while the block runs."""
    wish = StopWish()
    before = {number: signal.signal(number, wish.hear) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield wish
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
