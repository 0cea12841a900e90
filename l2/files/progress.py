"""How the library tells of its progress without printing: (done, total or None, short note)."""

from collections.abc import Callable

OnProgress = Callable[[float, float | None, str], None]


def ignore(done: float, total: float | None = None, note: str = "") -> None:
    """Tell nobody."""
