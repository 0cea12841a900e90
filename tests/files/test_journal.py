"""A journal keeps what it was given: through kills, full disks and two processes at once."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time

import pytest

from l2.files.errors import BadInput, L2Error
from l2.files.journal import Journal


def test_events_come_back_and_a_line_that_was_cut_is_taken_away(tmp_path):
    path = tmp_path / "deep" / "j.jsonl"
    journal = Journal(path)
    journal.append({"n": 1})
    journal.append({"n": 2, "text": "two\u2028lines\u0085"})
    journal.close()
    whole = path.read_bytes()
    for torn in (b'{"n": 3', b"\xff", b'{"n": 3}'):
        path.write_bytes(whole + torn)
        again = Journal(path)
        assert [event["n"] for event in again.events] == [1, 2] and again.events[1]["text"] == "two\u2028lines\u0085"
        again.append({"n": 3})
        again.close()
        assert path.read_bytes() == whole + b'{"n":3}\n'


def test_a_broken_line_in_the_middle_is_told(tmp_path):
    (tmp_path / "j.jsonl").write_bytes(b'{"n":1}\n{"n":\n{"n":3}\n')
    with pytest.raises(BadInput, match=r"j.jsonl:2: found no valid JSON"):
        Journal(tmp_path / "j.jsonl")


def test_one_process_writes(tmp_path):
    journal = Journal(tmp_path / "j.jsonl")
    with pytest.raises(L2Error, match="another process is writing here"):
        Journal(tmp_path / "j.jsonl")
    journal.close()
    Journal(tmp_path / "j.jsonl").close()


def test_a_full_disk_leaves_it_as_it_was(tmp_path, monkeypatch):
    journal = Journal(tmp_path / "j.jsonl")
    journal.append({"n": 1})

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(L2Error, match="No space left on device"):
            journal.append({"n": 2})
    assert (tmp_path / "j.jsonl").read_bytes() == b'{"n":1}\n' and len(journal.events) == 1
    journal.append({"n": 2})
    assert (tmp_path / "j.jsonl").read_bytes() == b'{"n":1}\n{"n":2}\n'


WRITER = """
import sys
from l2.files.journal import Journal
journal = Journal(sys.argv[1])
for n in range(10**6):
    journal.append({"n": n, "text": "x" * 5000})
    print(n, flush=True)
"""


def test_what_was_confirmed_before_a_kill_is_there(tmp_path):
    path = tmp_path / "j.jsonl"
    writer = subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    writer.stdout.readline()
    time.sleep(0.1)
    writer.send_signal(signal.SIGKILL)
    confirmed = [0, *map(int, writer.stdout.read().split())]
    writer.wait()
    journal = Journal(path)
    numbers = [event["n"] for event in journal.events]
    assert numbers == list(range(len(numbers))) and len(numbers) >= len(confirmed)
    journal.close()
