"""The threads that call compiled code.

TVM gives each thread that runs a parallel loop workers of its own. They do not survive a fork, where whoever
waits for them waits for ever, even at the exit of the process; they spin for a while after each loop, and
take as long to end with their thread. So no caller's thread runs compiled code: it hands the call to a lane,
a thread kept for it, and waits. A number of threads has as many lanes as the CPU has room for; further calls
wait for their turn. A forked process starts lanes of its own, and the interpreter ends when no call is left.

A hand-over takes some ten to a hundred microseconds, more where a call takes every core. What is global here
is so because TVM's threads are. It is not a `ThreadPoolExecutor`: that one ends with the main thread, before
other threads that still call.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Generic, ParamSpec, TypeVar

from aqd_deploy.errors import ProgramError
from aqd_deploy.runtime import backend
from aqd_deploy.targets.cpu import available_threads

P = ParamSpec("P")
T = TypeVar("T")


class _Call(Generic[T]):
    """A function with its arguments, and what came of it."""

    def __init__(self, function: Callable[[], T]) -> None:
        self.function: Callable[[], T] | None = function
        self.of_daemon = threading.current_thread().daemon
        self.finished = threading.Event()
        self.error: BaseException | None = None
        self.result: T

    def run(self) -> None:
        assert self.function is not None
        try:
            self.result = self.function()
        except BaseException as error:  # whatever it is, it is the caller's, who waits
            self.error = error
        # What the arguments hold must not wait for this thread's next call.
        self.function = None


class _Lanes:
    """The lanes for one number of threads; each is started when a call finds no other idle."""

    def __init__(self, threads: int) -> None:
        self._waiting: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._starting = threading.Lock()
        self._left = max(1, available_threads() // threads)

    def put(self, work: Callable[[], None]) -> None:
        self._waiting.put(work)
        if not self._idle.acquire(blocking=False):
            with self._starting:
                if self._left:
                    # A daemon, because it waits for ever; `_settle` sees to it that it only waits.
                    threading.Thread(target=self._serve, name="aqd-program", daemon=True).start()
                    self._left -= 1

    def _serve(self) -> None:
        while True:
            self._waiting.get()()
            self._idle.release()


class _Process:
    """The lanes of this process by number of threads, and the calls that are in them."""

    def __init__(self, *, usable: bool = True) -> None:
        self.usable = usable
        self.closing = False
        # Adding to it and removing from it are atomic.
        self.calls: set[_Call[Any]] = set()
        self._lanes: dict[int, _Lanes] = {}

    def run(self, threads: int, call: _Call[T]) -> T:
        lanes = self._lanes.get(threads) or self._lanes.setdefault(threads, _Lanes(threads))
        lanes.put(lambda: self._serve(call))
        call.finished.wait()
        if call.error is not None:
            raise call.error
        return call.result

    def _serve(self, call: _Call[T]) -> None:
        self.calls.add(call)
        # The interpreter ends its daemons where they wait; this one then waits for its call.
        dropped = self.closing and call.of_daemon
        if not dropped:
            call.run()
        self.calls.discard(call)
        if not dropped:
            call.finished.set()


_process = _Process()


def call(threads: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """`function(*args, **kwargs)` in a lane whose parallel loops have `threads` threads, at most the CPU's.

    Safe from any thread, and in a forked process. Raises what `function` raises, and ProgramError in a
    process that was forked while another thread of its parent was in compiled code.
    """
    if not _process.usable:
        raise ProgramError(
            "this process cannot run programs: it was forked while its parent ran one, and may have locks "
            "that nobody releases",
            next_command="fork before the first run, or multiprocessing.get_context('forkserver') or 'spawn'",
        )
    threads = min(threads, available_threads())

    def work() -> T:
        backend.start_workers(threads)
        return function(*args, **kwargs)

    return _process.run(threads, _Call(work))


def usable() -> bool:
    """Whether compiled code can run in this process at all."""
    return _process.usable


def _start_over() -> None:
    """In a forked process: the parent's lanes are not there, and calls that were in them never return."""
    global _process
    _process = _Process(usable=_process.usable and not _process.calls)


def _settle() -> None:
    """When the interpreter ends: wait for the calls of daemon threads, and let them make no others.

    A thread that comes back from compiled code when the interpreter is gone ends the process with an abort.
    """
    _process.closing = True
    for each in list(_process.calls):
        each.finished.wait()


os.register_at_fork(after_in_child=_start_over)
atexit.register(_settle)
