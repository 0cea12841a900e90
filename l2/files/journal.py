"""A file of JSON lines that only grows, each line on disk before anybody is told: what is in it was never lost."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from l2.files.atomic import fsync_dir
from l2.files.errors import L2Error
from l2.files.jsonl import Record, encode_record, parse_records


def read_whole(data: bytes, path: str | Path) -> tuple[list[Record], int]:
    """The records of the lines of `data` that have an end, and their bytes. Raises BadInput for one that is none."""
    whole, newline, _ = data.rpartition(b"\n")
    return list(parse_records(whole.split(b"\n"), str(path))), len(whole + newline)


class Journal:
    """The events of a file, and the right to add to them, which one process has at a time.

    A last line without its end was cut by a kill before anybody heard of it: it is taken away. Raises L2Error where
    another process holds the file or it can't be opened, and BadInput for a line that is no record.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "a+b", buffering=0)  # noqa: SIM115  open until `close`
        except OSError as error:
            raise L2Error(f"{path}: can't be written ({error.strerror})") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fsync_dir(self.path.resolve().parent)
            self._file.seek(0)
            self.events, size = read_whole(self._file.read(), path)
            self._file.truncate(size)
        except BlockingIOError:
            self.close()
            raise L2Error(f"{path}: another process is writing here; wait for it or choose another file") from None
        except BaseException:
            self.close()
            raise

    def append(self, event: Mapping[str, Any], *, sync: bool = True) -> None:
        """Add an event, and return when it is on the disk (without `sync`, when the system has it).

        Raises L2Error where it can't be, as on a full disk; the file is then as it was.
        """
        size = os.fstat(self._file.fileno()).st_size
        data = memoryview(encode_record(event))
        try:
            while data:
                data = data[self._file.write(data) :]
            if sync:
                self.sync()
        except OSError as error:
            self._file.truncate(size)
            raise L2Error(f"{self.path}: can't be written ({error.strerror}); nothing was added") from None
        self.events.append(Record(event, str(self.path)))

    def sync(self) -> None:
        """Return when everything is on the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Let others write."""
        self._file.close()
