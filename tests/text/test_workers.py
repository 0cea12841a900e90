"""Results come in the order of the tasks, and a process that dies is an error."""

from __future__ import annotations

import os
import time
from functools import partial

import pytest

from l2.files.errors import L2Error
from l2.text.workers import in_order


def slow_square(task):
    time.sleep(0.02 * (task % 3 == 0))
    return task * task, os.getpid()


def make(function):
    return function


def die(task):
    os._exit(9)


def test_in_order_from_several_processes():
    results = list(in_order(partial(make, slow_square), range(20), jobs=3))
    assert [square for square, _ in results] == [i * i for i in range(20)]
    pids = {pid for _, pid in results}
    assert len(pids) == 3 and os.getpid() not in pids
    assert list(in_order(partial(make, slow_square), [], jobs=2)) == []
    assert list(in_order(partial(make, slow_square), [3])) == [(9, os.getpid())]


def test_tasks_are_read_only_as_far_ahead_as_there_are_jobs():
    read = []

    def tasks():
        for task in range(100):
            read.append(task)
            yield task

    results = in_order(partial(make, slow_square), tasks(), jobs=2)
    assert next(results)[0] == 0 and read == [0, 1, 2]
    results.close()


def test_a_dead_process_is_one_sentence():
    with pytest.raises(L2Error, match="worker process died"):
        list(in_order(partial(make, die), range(9), jobs=2))


def test_an_error_of_the_tasks_is_theirs():
    def tasks():
        yield 1
        raise L2Error("bad line")

    with pytest.raises(L2Error, match="bad line"):
        list(in_order(partial(make, slow_square), tasks(), jobs=2))
