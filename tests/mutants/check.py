"""Historical bugs of RLHF as patches: each must break the fast tests that it names.

python -m tests.mutants.check [NAME...]: each patch of this directory (or those named) is applied to a copy of the
sources, and its tests run there. A patch that no longer applies, a test that is not there and a bug that no test
sees are failures. What has to be imported is imported once, before the copies are made; each mutant is a fork.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SOURCES = ("l2", "cmds", "tests", "pyproject.toml")
JOBS, SECONDS = 2, 60  # at a time; for each


class Mutant(NamedTuple):
    """A patch: its name, what the bug was, and the tests that must see it."""

    name: str
    bug: str
    tests: list[str]


def read(path: Path) -> Mutant:
    """Its first line tells the bug, and each "kills: " line names a test."""
    bug, *lines = path.read_text(encoding="utf-8").splitlines()
    return Mutant(path.stem, bug, [line.removeprefix("kills: ") for line in lines if line.startswith("kills: ")])


def life(copy: Path, tests: list[str]) -> int:
    """Run `tests` of the sources in `copy`, in a fork; returns its process id. Exit status: pytest's."""
    if child := os.fork():
        return child
    signal.alarm(SECONDS)
    os.chdir(copy)
    sys.path.insert(0, str(copy))
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    import pytest

    os._exit(int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-o", "addopts=", *tests])))


def fault(status: int) -> str:
    """What is wrong with how a mutant ended, or nothing."""
    if status in (1, -signal.SIGALRM):
        return ""
    return "survives: no named test fails" if status == 0 else f"a named test can't run (pytest ended with {status})"


def start(mutant: Mutant, copy: Path) -> int | str:
    """The process of its tests, or why there is none."""
    for name in SOURCES:
        source = ROOT / name
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source, copy / name, ignore=ignored) if source.is_dir() else shutil.copy(source, copy / name)
    if mutant.name:
        patch = ["git", "apply", str(HERE / f"{mutant.name}.patch")]
        done = subprocess.run(patch, cwd=copy, capture_output=True, text=True, env=os.environ | {"GIT_DIR": os.devnull})
        if done.returncode:
            return f"the patch no longer applies; bring it up to date ({done.stderr.strip().splitlines()[0]})"
    if not mutant.tests:
        return "it names no test"
    return life(copy, mutant.tests)


def main(names: list[str]) -> int:
    """See above."""
    import hypothesis
    import pytest  # noqa: F401
    import scipy.special  # noqa: F401
    import torch  # noqa: F401

    begun = time.monotonic()
    mutants = [read(path) for path in sorted(HERE.glob("*.patch")) if not names or path.stem in names]
    # first of all, without any bug: what fails then would seem to kill every mutant
    sound = Mutant("", "", sorted({test for mutant in mutants for test in mutant.tests}))
    waiting, running, faults = [sound, *mutants], {}, {}
    hypothesis.settings.register_profile("mutants", max_examples=25, deadline=None)
    hypothesis.settings.load_profile("mutants")
    with tempfile.TemporaryDirectory() as folder:
        while waiting or running:
            if waiting and len(running) < JOBS:
                mutant = waiting.pop(0)
                copy = Path(folder, mutant.name or "sound")
                copy.mkdir()
                if isinstance(child := start(mutant, copy), str):
                    faults[mutant.name] = child
                else:
                    running[child] = mutant, copy
                continue
            child, status = os.wait()
            mutant, copy = running.pop(child)
            shutil.rmtree(copy)
            ended = os.waitstatus_to_exitcode(status)
            if not mutant.name and ended:
                print(f"mutants: the tests fail without any bug (pytest ended with {ended})", file=sys.stderr)
                return 1
            if mutant.name and fault(ended):
                faults[mutant.name] = fault(ended)
    for name, why in faults.items():
        print(f"mutants: {name}.patch: {why}", file=sys.stderr)
    seconds = time.monotonic() - begun
    print(f"mutants: {len(mutants) - len(faults)} of {len(mutants)} bugs are seen by their tests, {seconds:.0f} s")
    return 1 if faults or not mutants else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
