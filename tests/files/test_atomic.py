"""Files that appear whole: what killed writers leave, and what living ones are at."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from l2.files.atomic import write_atomic

ROOT = Path(__file__).parents[2]
WRITER = """
import sys
from l2.files.atomic import atomic_file
with atomic_file(sys.argv[1]):
    print(flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_process_left_is_removed_and_what_is_being_written_stays(tmp_path):
    path = tmp_path / "a[1].jsonl"
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
        for _ in range(2)
    ]
    for writer in writers:
        writer.stdout.readline()
    assert len(list(tmp_path.iterdir())) == 2
    for partial in tmp_path.iterdir():
        os.utime(partial, (0, 0))
    writers[0].kill()
    writers[0].wait()
    write_atomic(path, b"new")
    assert len(list(tmp_path.iterdir())) == 2 and path.read_bytes() == b"new"
    writers[1].communicate(b"")
    assert [one.name for one in tmp_path.iterdir()] == [path.name] and path.read_bytes() == b""
