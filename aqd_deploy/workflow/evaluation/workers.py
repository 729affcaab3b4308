"""Processes that do pieces of work, and take over what one of them cannot finish.

`concurrent.futures` has no way to go on without a process that waits for a board which is gone.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, Generic, TypeVar

from aqd_deploy.errors import DeviceError
from aqd_deploy.processes import end_with_parent

Piece = TypeVar("Piece")
Result = TypeVar("Result")
_SECONDS = 5.0
"""How long a process may take at the end for what it is at, and to give back what it holds."""


class WorkerEnded(Exception):
    """A process ended before its time."""


@dataclass(eq=False)
class _Worker:
    process: SpawnProcess
    connection: Connection
    index: int | None = None
    """Of the piece that it is at."""


@dataclass
class Workers(Generic[Piece, Result]):
    """`count` processes that compute `function` of pieces; both are pickled.

    A process whose function raises DeviceError has lost its device: `lost` is told of it, and the others do
    what it was at. With `take_over`, one that has nothing to do begins what another is at, and who is first
    counts: a board that does not answer keeps nobody waiting while there is another.
    """

    function: Callable[[Piece], Result]
    count: int
    take_over: bool = False
    lost: Callable[[DeviceError], None] = lambda _: None
    _workers: list[_Worker] = field(default_factory=list)

    def results(self, pieces: Sequence[Piece]) -> Generator[Result, None, None]:
        """The result of each piece, as they come. Raises what the function raises (DeviceError when the last
        process has), and WorkerEnded.
        """
        waiting, open_ = deque(range(len(pieces))), set(range(len(pieces)))
        try:
            self._workers = [_start(self.function) for _ in range(min(self.count, len(pieces)))]
            while open_:
                for worker in self._workers:
                    self._give(worker, waiting, open_, pieces)
                for worker in self._ready():
                    index, result = worker.index, self._answer(worker)
                    if index in open_ and isinstance(result, DeviceError):
                        waiting.appendleft(index)
                    elif index in open_:
                        open_.remove(index)
                        yield result
        finally:
            _end(self._workers)

    def _give(self, worker: _Worker, waiting: deque[int], open_: set[int], pieces: Sequence[Piece]) -> None:
        """The next piece to a process that has none, or the first that is not done yet."""
        if worker.index is not None or not (waiting or self.take_over):
            return
        worker.index = waiting.popleft() if waiting else min(open_)
        # What has ended is found when its answer is read.
        with suppress(OSError):
            worker.connection.send(pieces[worker.index])

    def _ready(self) -> list[_Worker]:
        there = wait([worker.connection for worker in self._workers if worker.index is not None])
        return [worker for worker in self._workers if worker.connection in there]

    def _answer(self, worker: _Worker) -> Any:
        """A result, or the DeviceError of a process that has others beside it, and is one of them no more."""
        worker.index = None
        try:
            result, error = worker.connection.recv()
        except (EOFError, OSError) as ended:
            raise WorkerEnded from ended
        if error is None:
            return result
        if not isinstance(error, DeviceError) or len(self._workers) == 1:
            raise error
        self._workers.remove(worker)
        _end([worker])
        self.lost(error)
        return error


def _start(function: Callable[[Any], Any]) -> _Worker:
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(function, theirs, os.getpid()), daemon=True)
    process.start()
    # Else the end of the process would not be the end of the pipe.
    theirs.close()
    return _Worker(process, ours)


def _serve(function: Callable[[Any], Any], connection: Connection, parent: int) -> None:
    end_with_parent(parent)
    with suppress(EOFError, OSError):
        while True:
            connection.send(_answered(function, connection.recv()))


def _answered(function: Callable[[Any], Any], piece: Any) -> tuple[Any, Exception | None]:
    try:
        return function(piece), None
    except Exception as error:  # whatever it is, it is the parent's
        return None, error


def _end(workers: Sequence[_Worker]) -> None:
    """Let them end; what takes too long is ended."""
    for worker in workers:
        worker.connection.close()
    end = time.monotonic() + _SECONDS
    for worker in workers:
        worker.process.join(max(0.0, end - time.monotonic()))
        worker.process.terminate()
        worker.process.join()
