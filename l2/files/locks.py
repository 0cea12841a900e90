"""Output directories: one process at a time, and nobody else's files."""

from __future__ import annotations

import fcntl
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from l2.files.errors import L2Error

LOCK = ".lock"


@contextmanager
def held(directory: Path, what: str, option: str, *, shared: bool = False) -> Iterator[None]:
    """Make `directory`, and hold it while the block runs: alone, or `shared` with others who hold it so.

    `what` it is to be and the `option` that names it are for messages. Raises L2Error where it can't be made or locked,
    or another process holds it.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = open(directory / LOCK, "a+")  # noqa: SIM115  closed below
    except OSError as error:
        raise L2Error(f"{directory}: can't be {what} directory ({error.strerror})") from None
    with lock:
        try:
            fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            another = f"another process is writing here; wait for it or choose another {option}"
            raise L2Error(f"{directory}: {another}") from None
        except OSError as error:
            raise L2Error(f"{directory}: can't be locked ({error.strerror}); choose another {option}") from None
        yield


def is_foreign(directory: Path, manifest: str) -> bool:
    """Whether a held directory has files that stood there before us: any but the lock and the `manifest`, half written
    perhaps, which is the first that we write."""
    ours = re.compile(rf"{re.escape(LOCK)}|{re.escape(manifest)}|\.{re.escape(manifest)}\.tmp-\d+")
    return any(not ours.fullmatch(entry.name) for entry in directory.iterdir())
