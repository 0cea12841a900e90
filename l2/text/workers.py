"""A function over a stream of tasks in several processes, with results in the order of the tasks."""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import TypeVar

from l2.files.errors import L2Error

T = TypeVar("T")
R = TypeVar("R")


def _serve(connection: Connection, make: Callable[[], Callable[[T], R]]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's affair
    function = make()
    with suppress(EOFError, BrokenPipeError):  # the parent has closed its end, or is gone
        while True:
            connection.send(function(connection.recv()))


def in_order(make: Callable[[], Callable[[T], R]], tasks: Iterable[T], jobs: int = 1) -> Iterator[R]:
    """The results of `make()` for each task, in the order of the tasks.

    `make` is called once in each of `jobs` processes (where jobs is 1: in this one), so that what it loads need not
    be sent; it must be a function at the top of a module, or a partial of one. At most `jobs` tasks are read ahead.
    Raises L2Error when a process dies.
    """
    if jobs == 1:
        yield from map(make(), tasks)
        return
    spawn = multiprocessing.get_context("spawn")  # a fork would copy the locks of other threads, locked
    ends: list[Connection] = []
    processes = []
    try:
        for _ in range(jobs):
            ours, theirs = spawn.Pipe()
            processes.append(spawn.Process(target=_serve, args=(theirs, make), daemon=True))
            processes[-1].start()
            theirs.close()
            ends.append(ours)
        # One task waits at each process, and its result is fetched before it gets another: neither side can be
        # stuck writing to the other.
        idle, busy = deque(ends), deque[Connection]()
        for task in tasks:
            if not idle:
                yield busy[0].recv()
                idle.append(busy.popleft())
            idle[0].send(task)
            busy.append(idle.popleft())
        while busy:
            yield busy[0].recv()
            busy.popleft()
    except (EOFError, ConnectionError):
        raise L2Error("a worker process died, perhaps for want of memory; --jobs 1 uses none") from None
    finally:
        for end, process in zip(ends, processes, strict=False):
            end.close()
            process.terminate()
            process.join()
