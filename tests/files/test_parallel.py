"""One function in several processes: order, errors, and processes that die."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import time

import pytest

from l2.files.errors import BadInput, L2Error
from l2.files.parallel import ordered_map


def slow_square(number: int) -> int:
    time.sleep(0.01 * (number % 3))
    return number * number


def doze(number: int) -> int:
    time.sleep(1000 * number)
    return number


def die(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def fail(number: int) -> int:
    raise L2Error(f"no {number}")


def refuse(number: int) -> int:
    raise BadInput("f:3", "a 1", "a 2")


def make(function):
    return function


def unmade():
    raise FileNotFoundError(2, "No such file or directory", "model.bin")


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_fails_as_a_worker_starts_is_told_as_it_is(jobs):
    with pytest.raises(FileNotFoundError, match=r"model\.bin"):
        list(ordered_map(unmade, [1], jobs))


@pytest.mark.parametrize("jobs", [1, 2])
def test_results_come_in_order(jobs):
    assert list(ordered_map(functools.partial(make, slow_square), range(20), jobs)) == [i * i for i in range(20)]


@pytest.mark.parametrize("jobs", [1, 2])
def test_few_items_are_on_their_way(jobs):
    taken = []
    results = ordered_map(functools.partial(make, slow_square), (taken.append(i) or i for i in range(50)), jobs)
    for i, _ in enumerate(results):
        assert len(taken) <= i + 1 + (2 * jobs if jobs > 1 else 0)


def test_errors_come_back():
    def items():
        yield from range(5)
        raise L2Error("torn")

    with pytest.raises(L2Error, match="torn"):
        list(ordered_map(functools.partial(make, slow_square), items(), 2))
    with pytest.raises(L2Error, match="no 0"):
        list(ordered_map(functools.partial(make, fail), range(9), 2))
    with pytest.raises(BadInput, match="f:3: found a 1; expected a 2"):
        list(ordered_map(functools.partial(make, refuse), range(9), 2))
    with pytest.raises(L2Error, match="a worker process was killed"):
        list(ordered_map(functools.partial(make, die), range(9), 2))


def test_workers_end_with_a_killed_parent():
    code = """
import functools, itertools, multiprocessing, sys
from l2.files.parallel import ordered_map
from tests.files.test_parallel import make, slow_square
for _ in ordered_map(functools.partial(make, slow_square), itertools.count(), 2):
    print(*[child.pid for child in multiprocessing.active_children()], flush=True)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    workers = [int(pid) for pid in parent.stdout.readline().split()]
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert len(workers) == 2
    for _ in range(100):
        alive = [pid for pid in workers if os.path.exists(f"/proc/{pid}")]
        if not alive:
            return
        time.sleep(0.1)
    raise AssertionError(alive)


def test_a_signal_waits_for_nothing_that_is_being_made():
    """SystemExit, which cmds/app.py makes of SIGTERM: the workers, asleep for a quarter of an hour and more, end."""
    results = ordered_map(functools.partial(make, doze), [0, 1, 1, 1, 1, 1], 2)
    assert next(results) == 0
    with pytest.raises(SystemExit):
        results.throw(SystemExit(143))
