"""One function over many items, in several processes or as tasks of Ray, in order."""

from __future__ import annotations

import functools
import importlib.util
import multiprocessing
import os
import signal
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import Any, Literal, TypeVar

from l2.files.errors import L2Error, UsageError

Engine = Literal["local", "ray"]

Item = TypeVar("Item")
Result = TypeVar("Result")

_function: Callable[[Any], Any]  # of this worker


def _start(make: Callable[[], Callable[[Any], Any]]) -> None:
    global _function
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process: the first one tidies up
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _function = _made_or_refused(make)


def _end_with_parent() -> None:
    """A killed parent says nothing, and its workers would wait for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _made_or_refused(make: Callable[[], Callable[[Any], Any]]) -> Callable[[Any], Any]:
    """`make()`; where it fails, a function that says why to whoever calls it, as a pool's initializer can't."""
    try:
        return make()
    except Exception as error:
        return functools.partial(_refuse, error)


def _refuse(error: Exception, item: Any) -> Any:
    raise error


def _call(item: Any) -> Any:
    return _function(item)


def ordered_map(
    make: Callable[[], Callable[[Item], Result]], items: Iterable[Item], jobs: int = 1, engine: Engine = "local"
) -> Iterator[Result]:
    """`make()(item)` of every item, in their order, in `jobs` processes; one job needs no process but this one.

    `make` is called once a process; it, the items and the results are pickled. At most 2 * jobs + 1 items are on their
    way at once. The processes are spawned: a script calls this under `if __name__ == "__main__"`. Raises what `items`
    and the function raise, and L2Error when a process is killed. With the engine "ray" the processes are Ray's.
    """
    if engine == "ray":
        yield from _ray_map(make, items, jobs)
        return
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
    except (SystemExit, KeyboardInterrupt):  # a signal: nobody waits for what is being made
        for worker in multiprocessing.active_children():
            worker.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def need_ray() -> None:
    """Raises UsageError where Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise UsageError("--engine ray needs Ray: pip install 'l2[ray]'")


_made: dict[str, Callable[[Any], Any]] = {}  # of this worker of Ray, by the token of the map it serves


def _call_made(token: str, make: Callable[[], Callable[[Any], Any]], item: Any) -> Any:
    if token not in _made:
        _made.clear()
        _made[token] = _made_or_refused(make)
    return _made[token](item)


def _ray_map(make: Callable[[], Callable[[Item], Result]], items: Iterable[Item], jobs: int) -> Iterator[Result]:
    """`ordered_map` on the cluster that RAY_ADDRESS names, or in a local one of `jobs` CPUs that ends with us."""
    need_ray()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # Ray would tell its makers
    import ray
    from ray.exceptions import RayError, RayTaskError

    if not ray.is_initialized():
        address = os.environ.get("RAY_ADDRESS", "local")
        local = {"num_cpus": jobs, "include_dashboard": False} if address == "local" else {}
        ray.init(address, configure_logging=False, log_to_driver=False, **local)
    token = uuid.uuid4().hex
    shared = ray.put(make)
    call = ray.remote(num_cpus=1, max_retries=0)(_call_made)
    waiting: deque[Any] = deque()

    def result_of(reference: Any) -> Result:
        ray.wait([reference])
        result: Result = ray.get(reference)
        return result

    try:
        for item in items:
            waiting.append(call.remote(token, shared, item))
            if len(waiting) > 2 * jobs:
                yield result_of(waiting.popleft())
        while waiting:
            yield result_of(waiting.popleft())
    except RayTaskError as error:
        raise error.cause from None
    except RayError as error:
        raise L2Error(f"Ray gave up: {str(error).splitlines()[0]}") from None
    finally:
        for reference in waiting:
            ray.cancel(reference, force=True)
        if waiting:
            ray.wait(list(waiting), num_returns=len(waiting), timeout=60)
