"""Files and directories that appear whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from l2.files.errors import L2Error

# Names of devices and of open files: what is written to them belongs to whoever opened them.
DESCRIPTORS = {"/dev", "/dev/fd", "/proc/self/fd"}
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # of which the system does not say where
NEWCOMER = 10.0  # seconds within which a file that was opened may not be locked yet


def fsync_dir(path: Path) -> None:
    """Return when the names in a directory are on the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _beside(path: Path) -> Path:
    # With the time, since several machines may write to one directory, each with a process of this number.
    return path.with_name(f".{path.name}.tmp-{os.getpid()}{time.time_ns()}")


def _opened(partial: Path, path: Path) -> BinaryIO:
    """`partial` opened to be written, for `path`, which is the name that people know."""
    try:
        return open(partial, "wb")
    except OSError as error:
        raise L2Error(f"{path}: can't be written ({error.strerror})") from None


def _remove_abandoned(path: Path) -> None:
    """Remove what killed processes left half written of `path`: nobody holds it, and it is no newcomer."""
    for partial in path.parent.glob(f".{glob.escape(path.name)}.tmp-*"):
        with suppress(OSError), open(partial, "rb") as f:
            if time.time() - os.fstat(f.fileno()).st_mtime > NEWCOMER:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
                partial.unlink()


@contextmanager
def atomic_file(path: str | Path) -> Iterator[BinaryIO]:
    """Open a binary file that takes its name only when the block ends without an exception.

    Written beside `path`, flushed to disk, then renamed. On an exception the partial file is removed
    and whatever stood at `path` before stays. A link is followed; a device or a pipe is written to as it is.
    Raises L2Error where nothing can be written.
    """
    path = Path(path)
    if str(path.parent) in DESCRIPTORS or (path.exists() and not path.is_file()):
        with _opened(path, path) as f:
            yield f
        return
    path = path.resolve()
    partial = _beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise L2Error(f"{path.parent}: can't be made a directory ({error.strerror})") from None
    _remove_abandoned(path)
    try:
        with _opened(partial, path) as f:
            with suppress(OSError):  # some file systems have no locks
                fcntl.flock(f, fcntl.LOCK_EX)  # for as long as this process lives
            yield f
            f.flush()
            os.fsync(f.fileno())
        os.replace(partial, path)
        fsync_dir(path.parent)
    except OSError as error:
        if error.errno in FULL and error.filename is None:
            error.filename = str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


def write_atomic(path: str | Path, data: bytes) -> None:
    """Write `data` to `path` in one step (see `atomic_file`)."""
    with atomic_file(path) as f:
        f.write(data)


def remove_partial(directory: str | Path) -> None:
    """Remove what killed processes left half written in `directory`, and in the directories in it.

    Call it when nobody else writes there, and for a directory of our own: names tell, not what the files hold.
    """
    for pattern in (".*", "*/.*"):
        for path in Path(directory).glob(pattern):
            if re.fullmatch(r"\..+\.(tmp|old)-\d+", path.name):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextmanager
def atomic_dir(path: str | Path) -> Iterator[Path]:
    """Yield a directory that takes the name `path` only when the block ends without an exception.

    An older directory of that name is replaced, a link followed. Every file inside is flushed before the rename.
    Raises L2Error where something else has that name: root could put /dev/null aside.
    """
    path = Path(path).resolve()
    if path.exists() and not path.is_dir():
        raise L2Error(f"{path}: not a directory; choose another place")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _beside(path)
    partial.mkdir()
    try:
        yield partial
        for file in sorted(partial.rglob("*")):
            if file.is_file():
                with open(file, "rb") as f:
                    os.fsync(f.fileno())
        fsync_dir(partial)
        if path.exists():
            old = _beside(path)
            os.replace(path, old)
            os.replace(partial, path)
            shutil.rmtree(old)
        else:
            os.replace(partial, path)
        fsync_dir(path.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
