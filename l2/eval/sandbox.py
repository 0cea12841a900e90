"""Runs programs that a model wrote, each in a sandbox of its own (bubblewrap), and says which pass (ours).

A program sees a read-only Python and an empty /tmp: no network, no other file, no other process. What it writes goes
nowhere. Its processor time, memory, processes, files and wall clock are limited, and all its processes die with it.
"""

from __future__ import annotations

import os
import resource
import secrets
import select
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from l2.files.errors import L2Error
from l2.files.progress import OnProgress, ignore

REPORT_BYTES = 2000  # of a program's report; one that writes more has no verdict but "output"
NOBODY = 65534  # who runs programs where we are root: the kernel counts no processes against root


class Limits(NamedTuple):
    """Of one program: seconds of wall clock and of processor time, bytes of memory a process, processes and threads
    (the sandbox's own two among them), bytes of a file and of all that is in /tmp.
    """

    seconds: float = 5.0
    cpu_seconds: int = 4
    memory: int = 512 << 20
    processes: int = 10
    file_bytes: int = 16 << 20


class Verdict(NamedTuple):
    """Whether a program ran to its end, and how it ended otherwise: "timeout", "output", "killed" or its error."""

    passed: bool
    reason: str


# Runs inside. Passing takes the key, which is written once the program's last line has run: whatever it prints, leaving
# early by any door is no pass. (It shares its interpreter with these lines: one that studies them can lie, not escape.)
_INSIDE = """
import os, resource, sys
def main(write=os.write, leave=os._exit, text=str):
    key, _, source = sys.stdin.buffer.read().partition(b"\\n")
    report, nothing = os.dup(1), os.open("/dev/null", os.O_RDWR)
    for stream in 0, 1, 2:
        os.dup2(nothing, stream)
    for name, limit in {limits}:
        resource.setrlimit(name, (limit, limit))
    try:
        exec(compile(source, "program", "exec"), {{}})
    except BaseException as error:
        key = (type(error).__name__ + ": " + text(error)[:200]).encode("utf-8", "replace")
    write(report, key)
    leave(0)
main()
"""


def _inside(python: str, limits: Limits) -> list[str]:
    """The command that reads a key and a program from stdin, runs the program, and reports on stdout."""
    values = [
        (resource.RLIMIT_CPU, limits.cpu_seconds),
        (resource.RLIMIT_AS, limits.memory),
        (resource.RLIMIT_NPROC, limits.processes),
        (resource.RLIMIT_FSIZE, limits.file_bytes),
        (resource.RLIMIT_CORE, 0),
    ]
    return [python, "-s", "-S", "-B", "-c", _INSIDE.format(limits=values)]


def _python(anybodys: bool) -> str:
    """The interpreter that ours was made of; where it has to be `anybodys` and others can't reach it, the system's."""
    own = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
    if anybodys and not all(folder.stat().st_mode & stat.S_IXOTH for folder in Path(own).parents):
        return os.path.realpath("/usr/bin/python3")
    return own


def _boxed(limits: Limits) -> list[str]:
    """The same command in a sandbox. Raises L2Error where bubblewrap, or what root needs, is missing."""
    bubblewrap, setpriv, root = shutil.which("bwrap"), shutil.which("setpriv"), os.geteuid() == 0
    if bubblewrap is None:
        raise L2Error("model-written code runs in bubblewrap alone: install it (apt-get install bubblewrap)")
    if root and setpriv is None:
        raise L2Error("as root, model-written code needs setpriv to give its rights up: install util-linux")
    python = _python(anybodys=root)
    as_nobody = [str(setpriv), f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    shown = dict.fromkeys(["/usr", "/lib", "/lib64", str(Path(python).parent.parent)])
    return [
        *(as_nobody if root else []),
        *[bubblewrap, "--unshare-all", "--unshare-user", "--die-with-parent", "--new-session", "--cap-drop", "ALL"],
        *[word for path in shown for word in ("--ro-bind-try", path, path)],
        *["--dev-bind", "/dev/null", "/dev/null", "--size", str(limits.file_bytes), "--tmpfs", "/tmp"],
        *["--remount-ro", "/", "--chdir", "/tmp"],
        *_inside(python, limits),
    ]


def _run(command: Sequence[str], limits: Limits, program: str) -> Verdict:
    """The verdict on one program, run by `command`."""
    key = secrets.token_hex(16).encode()
    report, ended = b"", False
    # A file, not a pipe: a process that doesn't read can't hold us up.
    with tempfile.TemporaryFile() as source, tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)  # bubblewrap, as nobody, starts there
        source.write(key + b"\n" + program.encode("utf-8", "surrogatepass"))
        source.seek(0)
        deadline = time.monotonic() + limits.seconds
        process = subprocess.Popen(
            command,
            stdin=source,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"LANG": "C.UTF-8", "PYTHONHASHSEED": "0"},
            cwd=folder,
            start_new_session=True,
        )
        assert process.stdout is not None
        with process.stdout as pipe:
            while not ended and len(report) <= REPORT_BYTES and (left := deadline - time.monotonic()) > 0:
                if select.select([pipe], [], [], left)[0]:
                    part = os.read(pipe.fileno(), REPORT_BYTES)
                    report, ended = report + part, not part
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if len(report) > REPORT_BYTES:
        return Verdict(False, "output")
    if not ended:
        return Verdict(False, "timeout")
    if report == key:
        return Verdict(True, "passed")
    return Verdict(False, report.decode("utf-8", "replace") or "killed")


def _checked(command: Sequence[str]) -> Sequence[str]:
    """`command`, which can run a program. Raises L2Error where it can't."""
    if not _run(command, Limits(seconds=30.0), "").passed:
        raise L2Error(
            "bubblewrap can't make a sandbox here (the machine may forbid user namespaces), and model-written code "
            "runs in one alone"
        )
    return command


def run(
    programs: Sequence[str],
    jobs: int | None = None,
    limits: Limits = Limits(),  # noqa: B008  a constant
    *,
    unsafe: bool = False,
    on_progress: OnProgress = ignore,
) -> list[Verdict]:
    """The verdict on each program, `jobs` of them at a time (None: one a core).

    A program passes where it runs to its end: nothing raised, no early exit. Its modules are the standard library's.
    unsafe: without a sandbox, in an empty directory with the same limits; the program may do what its user may.
    Raises L2Error where there is no sandbox to be had, before anything runs.
    """
    command = _inside(_python(anybodys=False), limits) if unsafe else _checked(_boxed(limits))
    verdicts = []
    with ThreadPoolExecutor(jobs or len(os.sched_getaffinity(0))) as pool:
        for verdict in pool.map(partial(_run, command, limits), programs):
            verdicts.append(verdict)
            on_progress(len(verdicts), len(programs), "")
    return verdicts
