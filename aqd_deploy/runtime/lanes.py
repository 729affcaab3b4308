"""Which thread calls compiled code, and how many do at once.

TVM gives each thread that runs a parallel loop workers of its own. They do not survive a fork, where whoever
waits for them waits for ever, even at the exit of the process; they spin for a while after each loop, and
take as long to end with their thread. So no caller's thread gets workers. A call of one thread needs none and
is made where it is asked for; a call of several is handed to a lane, a thread kept for it with its workers.
That takes some tens of microseconds, a few hundred where a core has to wake up.

A number of threads has as many calls at once as the CPU has room for, and one of the main thread; further
calls wait for their turn. A forked process starts lanes of its own, and the interpreter ends when no call is
left. What is global here is so because TVM's threads are. It is not a `ThreadPoolExecutor`: that one ends
with the main thread, before other threads that still call.
"""

from __future__ import annotations

import _thread
import atexit
import os
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, Generic, ParamSpec, TypeVar

from aqd_deploy.errors import ProgramError
from aqd_deploy.runtime import backend
from aqd_deploy.targets.cpu import available_threads

P = ParamSpec("P")
T = TypeVar("T")


class _Call(Generic[T]):
    """A function with its arguments, and what came of it."""

    def __init__(self, function: Callable[[], T]) -> None:
        self._function: Callable[[], T] | None = function
        self._made = False
        self._error: BaseException | None = None
        self._result: T
        self.of_daemon = threading.current_thread().daemon
        # Here and below nothing that a signal's handler finds half done: it may make calls, too.
        self.finished = threading.Lock()
        self.finished.acquire()

    def make(self) -> None:
        assert self._function is not None
        try:
            self._result = self._function()
        except BaseException as error:  # whatever it is, it is the caller's, who waits
            self._error = error
        self._made = True
        # What the arguments hold must not wait for this thread's next call.
        self._function = None

    def result(self) -> T:
        with self.finished:
            pass
        if not self._made:
            # The interpreter ends, and ends its daemons where they wait.
            threading.Event().wait()
        if self._error is not None:
            raise self._error
        return self._result


class _Lanes:
    """The lanes for one number of threads; each is started when a call finds no other idle."""

    def __init__(self, threads: int) -> None:
        self._waiting: SimpleQueue[Callable[[], None]] = SimpleQueue()
        # A token for each lane that waits, and for each that may still be started.
        self._idle: SimpleQueue[None] = SimpleQueue()
        self._left: SimpleQueue[None] = SimpleQueue()
        for _ in range(_room(threads)):
            self._left.put(None)

    def put(self, work: Callable[[], None]) -> None:
        self._waiting.put(work)
        if not _taken(self._idle) and _taken(self._left):
            # A daemon, because it waits for ever; `_settle` sees to it that it only waits.
            _thread.start_new_thread(self._serve, ())

    def _serve(self) -> None:
        while True:
            self._waiting.get()()
            self._idle.put(None)


class _Process:
    """The calls of this process."""

    def __init__(self, *, usable: bool = True) -> None:
        self.usable = usable
        self.closing = False
        # Those that are being made. Adding to it and removing from it are atomic.
        self.calls: set[_Call[Any]] = set()
        self._lanes: dict[int, _Lanes] = {}
        self._turn = threading.Semaphore(_room(1))

    def run(self, threads: int, call: _Call[T]) -> T:
        """The call's result, where parallel loops have `threads` threads."""
        if threads > 1:
            lanes = self._lanes.get(threads) or self._lanes.setdefault(threads, _Lanes(threads))
            lanes.put(lambda: self.make(call))
        elif threading.current_thread() is threading.main_thread():
            # Without a turn: a signal's handler may call while the call that it interrupts has the last one.
            self._make_alone(call)
        else:
            with self._turn:
                self._make_alone(call)
        return call.result()

    def _make_alone(self, call: _Call[Any]) -> None:
        with backend.one_thread():
            self.make(call)

    def make(self, call: _Call[Any]) -> None:
        """Make the call in this thread; who waits for it finds its result."""
        try:
            self.calls.add(call)
            if not (self.closing and call.of_daemon):
                call.make()
        finally:
            self.calls.discard(call)
            call.finished.release()


def _taken(tokens: SimpleQueue[None]) -> bool:
    """Whether there was a token, which is gone now."""
    try:
        tokens.get_nowait()
    except Empty:
        return False
    return True


def _room(threads: int) -> int:
    return max(1, available_threads() // threads)


_process = _Process()


def call(threads: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """`function(*args, **kwargs)` where parallel loops have `threads` threads, at most the CPU's.

    Safe from any thread, and in a forked process. Raises what `function` raises, and ProgramError in a
    process that was forked while another thread of its parent was in compiled code.
    """
    _check_usable()
    if not backend.is_loaded():
        # Here, because a lane has nobody to tell that TVM is missing.
        at_once(backend.ffi)
    threads = min(threads, available_threads())

    def work() -> T:
        if threads > 1:
            backend.start_workers(threads)
        return function(*args, **kwargs)

    return _process.run(threads, _Call(work))


def at_once(function: Callable[[], T]) -> T:
    """`function()` in the calling thread, without waiting for a turn; it has no parallel loops.

    Raises what `call` raises.
    """
    _check_usable()
    made = _Call(function)
    _process.make(made)
    return made.result()


def _check_usable() -> None:
    if not _process.usable:
        raise ProgramError(
            "this process cannot run programs: it was forked while its parent ran one, and may have locks "
            "that nobody releases",
            next_command="fork before the first run, or multiprocessing.get_context('forkserver') or 'spawn'",
        )


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
        with each.finished:
            pass


os.register_at_fork(after_in_child=_start_over)
atexit.register(_settle)
