"""Programs that pass and fail, and a red team's: each must be contained, and none may pass."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from l2.eval import sandbox
from l2.eval.sandbox import Limits, run
from l2.files.errors import L2Error

QUICK = Limits(seconds=10.0, cpu_seconds=2)
SHORT = Limits(seconds=1.5, cpu_seconds=1)


@pytest.fixture(scope="module")
def boxed():
    try:
        run([""])
    except L2Error as error:
        pytest.skip(str(error))


PASS = [
    "x = 1",
    "def f(n):\n    return n * 2\nassert f(3) == 6",
    "from dataclasses import dataclass\n@dataclass\nclass A:\n    x: int\nassert A(1).x == 1",
    "import math, re, collections, typing, itertools, heapq, datetime, hashlib, json, random, string, copy",
    "print('é ' * 1000)",
    "open('/tmp/note', 'w').write('a'); assert open('/tmp/note').read() == 'a'",
    "import threading; t = threading.Thread(target=print); t.start(); t.join()",
]
FAIL = {
    "assert 1 == 2, 'no'": "AssertionError: no",
    "def f(:": "SyntaxError",
    "f()": "NameError",
    "def f(): f()\nf()": "RecursionError",
    "x = bytearray(1 << 30)": "MemoryError",
    "a = '\\ud800'.encode()": "UnicodeEncodeError",
}
SPOOFS = [
    "print('passed')",
    "import sys; sys.stdout.write('passed'); sys.exit(0)",
    "import os; os._exit(0)",
    "raise SystemExit",
    "raise SystemExit(0)",
    "import atexit, os; atexit.register(os._exit, 0); raise KeyboardInterrupt",
    "import builtins, sys, os\nbuiltins.AssertionError = None\nsys.exit = os._exit = lambda *a: None\nassert False",
    "import os\nfor fd in range(20):\n    try: os.write(fd, b'passed')\n    except OSError: pass\nos._exit(0)",
    "import os\nif os.fork():\n    os._exit(0)\nimport time; time.sleep(0.2); os.write(3, b'passed')",
    "import signal, os; os.kill(os.getpid(), signal.SIGKILL)",
    "import sys; sys.settrace(lambda *a: None); sys.exit(0)",
]


def test_what_runs_to_its_end_passes(boxed):
    assert [verdict.reason for verdict in run(PASS, 2, QUICK)] == ["passed"] * len(PASS)


def test_what_fails_says_how(boxed):
    for verdict, reason in zip(run(list(FAIL), 2, QUICK), FAIL.values(), strict=True):
        assert not verdict.passed and verdict.reason.startswith(reason)


def test_success_is_not_to_be_had_by_leaving_early(boxed):
    programs = [f"{spoof}\nassert False" for spoof in SPOOFS]
    assert [program for program, verdict in zip(programs, run(programs, 2, QUICK), strict=True) if verdict.passed] == []


def test_the_report_is_no_way_out_for_endless_output(boxed):
    flood = "import os\nwhile True:\n    os.write(3, b'x' * 65536)"
    (verdict,) = run([flood], 1, QUICK)
    assert not verdict.passed
    assert len(verdict.reason) <= sandbox.REPORT_BYTES


@pytest.mark.parametrize(
    "program",
    [
        "import os\nwhile True:\n    os.fork()",
        "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
        "import signal, time\nfor s in (15, 2, 1, 24): signal.signal(s, signal.SIG_IGN)\nwhile True: pass",
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(60)\ntime.sleep(60)",
        "while True: print('x' * 100000)",
        "import time; time.sleep(60)",
        "x = []\nwhile True: x.append(bytearray(1 << 20))",
        "import os\nwhile True: os.write(os.open('/tmp/x', os.O_CREAT | os.O_WRONLY | os.O_APPEND), b'x' * 65536)",
    ],
)
def test_a_program_that_does_not_end_is_ended(boxed, program):
    start = time.monotonic()
    (verdict,) = run([program], 1, SHORT)
    assert not verdict.passed
    assert time.monotonic() - start < 30, "the wall clock, with room for a busy machine"
    while _sandboxes() and time.monotonic() - start < 60:
        time.sleep(0.05)
    assert not _sandboxes(), "none is left"


def _sandboxes() -> list[str]:
    """Commands of processes that are sandboxes, or stand in one."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().decode(errors="replace"))
        except OSError:
            continue
    return [command for command in found if "resource.setrlimit" in command]


def test_the_world_outside_is_not_there(boxed, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        forbidden = [
            f"import socket; socket.create_connection(('127.0.0.1', {port}), 2)",
            "import socket; socket.create_connection(('10.0.2.2', 53), 2)",
            "import socket; socket.getaddrinfo('localhost.example', 80)",
            f"open({str(Path(__file__))!r})",
            f"import os; os.listdir({os.path.expanduser('~')!r})",
            "open('/etc/passwd')",
            "open('/proc/1/environ')",
            f"open({str(tmp_path / 'x')!r}, 'w')",
            "open('/x', 'w')",
            "open('/usr/x', 'w')",
            "open('/dev/x', 'w')",
            "import os; os.mkdir('/tmp/../y')",
            "import os; os.kill(1, 9); os.kill(1, 0); open('/nowhere')",
            "import os; os.setuid(0)",
            "import os; os.chroot('/tmp')",
            "import os; os.unshare(os.CLONE_NEWNET); os.listdir('/home')",
            "import ctypes; libc = ctypes.CDLL(None); assert libc.mount(b'x', b'/tmp', b'tmpfs', 0, None) == 0",
            "import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
            "open('/tmp/x', 'wb').write(bytes(32 << 20))",
            "import os\nfor i in range(3): open(f'/tmp/{i}', 'wb').write(bytes(8 << 20))",
            "import os; assert len(os.environ) > 4, os.environ",
        ]
        passed = [p for p, verdict in zip(forbidden, run(forbidden, 2, QUICK), strict=True) if verdict.passed]
    assert passed == []
    assert not list(tmp_path.iterdir())


def test_each_program_has_a_tmp_of_its_own(boxed):
    leave = "open('/tmp/left', 'w').close()"
    find = "import os; assert os.listdir('/tmp') == []"
    assert all(verdict.passed for verdict in run([leave, find, leave, find], 1, QUICK))


def test_without_bubblewrap_nothing_runs(monkeypatch, tmp_path):
    witness = tmp_path / "ran"
    program = f"open({str(witness)!r}, 'w')"
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(L2Error, match="apt-get install bubblewrap"):
        run([program])
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    (tmp_path / "setpriv").symlink_to(broken)
    with pytest.raises(L2Error, match="can't make a sandbox here"):
        run([program])
    assert not witness.exists()
    assert run([program], unsafe=True)[0].passed and witness.exists()


def test_without_a_sandbox_the_limits_and_the_verdicts_are_the_same():
    programs = [*PASS[:3], *SPOOFS[1:6], "while True: pass"]
    verdicts = run(programs, 2, SHORT, unsafe=True)
    assert [verdict.passed for verdict in verdicts] == [True] * 3 + [False] * 6
