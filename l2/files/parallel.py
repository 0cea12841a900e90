"""One function over many items, in several processes, in order."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import Any, TypeVar

from l2.files.errors import L2Error

Item = TypeVar("Item")
Result = TypeVar("Result")

_function: Callable[[Any], Any]  # of this worker


def _start(make: Callable[[], Callable[[Any], Any]]) -> None:
    global _function
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process: the first one tidies up
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _function = make()


def _end_with_parent() -> None:
    """A killed parent says nothing, and its workers would wait for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _call(item: Any) -> Any:
    return _function(item)


def ordered_map(make: Callable[[], Callable[[Item], Result]], items: Iterable[Item], jobs: int = 1) -> Iterator[Result]:
    """`make()(item)` of every item, in their order, in `jobs` processes; one job needs no process but this one.

    `make` is called once a process; it, the items and the results are pickled. At most 2 * jobs + 1 items are on their
    way at once. The processes are spawned: a script calls this under `if __name__ == "__main__"`. Raises what `items`
    and the function raise, and L2Error when a process is killed.
    """
    if jobs == 1:
        yield from map(make(), items)
        return
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _start, (make,))
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(_call, item))
            if len(waiting) > 2 * jobs:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise L2Error("a worker process was killed, for want of memory perhaps: try fewer --jobs") from None
    finally:
        pool.shutdown(cancel_futures=True)
