"""The threads that call compiled code.

TVM gives each thread that runs a parallel loop workers of its own. They do not survive a fork, where whoever
waits for them waits for ever, even at the exit of the process; they spin for a while after each loop, and
take as long to end with their thread. So no caller's thread runs compiled code: it hands the call to a lane,
a thread kept for it, and waits. A number of threads has as many lanes as the CPU has room for; further calls
wait for their turn. A forked process starts lanes of its own.

A hand-over takes some ten microseconds. What is global here is so because TVM's threads are.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from aqd_deploy.errors import ProgramError
from aqd_deploy.runtime import backend
from aqd_deploy.targets.cpu import available_threads

P = ParamSpec("P")
T = TypeVar("T")


class _Lanes:
    """Lanes by their number of threads, and the calls that are in compiled code."""

    def __init__(self, *, usable: bool = True) -> None:
        self.usable = usable
        self.calls: set[object] = set()
        self._lock = threading.Lock()
        self._executors: dict[int, ThreadPoolExecutor] = {}

    def of(self, threads: int) -> ThreadPoolExecutor:
        with self._lock:
            if threads not in self._executors:
                self._executors[threads] = ThreadPoolExecutor(
                    max_workers=max(1, available_threads() // threads),
                    thread_name_prefix="aqd-program",
                    initializer=backend.start_workers,
                    initargs=(threads,),
                )
            return self._executors[threads]


_lanes = _Lanes()


def call(threads: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """`function(*args, **kwargs)` in a lane whose parallel loops have `threads` threads, at most the CPU's.

    Safe from any thread, and in a forked process. Raises what `function` raises, and ProgramError in a
    process that was forked while another thread of its parent was in compiled code.
    """
    if not _lanes.usable:
        raise ProgramError(
            "this process cannot run programs: it was forked while its parent ran one, and has locks that "
            "nobody will release",
            next_command="fork before the first run, or multiprocessing.get_context('forkserver') or 'spawn'",
        )
    backend.ffi()  # Raises here where TVM is missing; in a lane it would only break the lane.
    lane = _lanes.of(min(threads, available_threads()))
    return lane.submit(_counted, _lanes.calls, function, *args, **kwargs).result()


def usable() -> bool:
    """Whether compiled code can run in this process at all."""
    return _lanes.usable


def _counted(calls: set[object], function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The call, known to `calls` while it lasts: adding and removing are atomic."""
    token = object()
    calls.add(token)
    try:
        return function(*args, **kwargs)
    finally:
        calls.discard(token)


def _start_over() -> None:
    """In a forked process: the parent's lanes are not there, and calls that were in them never return."""
    global _lanes
    _lanes = _Lanes(usable=_lanes.usable and not _lanes.calls)


os.register_at_fork(after_in_child=_start_over)
