"""TVM's worker processes: they end with the process that started them, also in the middle of a call."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

from tvm.support.popen_pool import PopenWorker

from aqd_deploy.tuning.failures import death

_ENDING_SECONDS = 5.0

_T = TypeVar("_T")


class Worker(PopenWorker):
    """A worker process, started by its first call, silent on stderr."""

    def __init__(self) -> None:
        super().__init__(stderr=subprocess.DEVNULL)
        self._lock = threading.Lock()
        self._ended = False

    def call(self, function: Any, arguments: tuple[Any, ...], limit: float) -> Any:
        """What `function` returns. Raises what it raises, TimeoutError after `limit` seconds, and where the
        process ends CrashError or ChildProcessError (`failures.death`).
        """
        try:
            self.send(function, arguments, timeout=limit)
            return self.recv()
        except Exception as error:
            if self._ended and not isinstance(error, ChildProcessError):
                # Whatever it was: `end` closes the pipes under the call.
                raise ChildProcessError("the worker was ended") from error
            raise

    def end(self) -> None:
        """End the process for good; calls in other threads, now or later, end with ChildProcessError."""
        self._ended = True
        self.kill()

    def kill(self) -> None:
        """End the process; the next call starts another."""
        with self._lock:
            if self._proc is not None:
                # TVM's way closes the pipes first, which waits for a reader in another thread.
                self._proc.kill()
            super().kill()

    def _child_process_error(self) -> Exception:
        """What PopenWorker raises where a pipe ends: how the process did, which may take it a moment more."""
        process, status = self._proc, None
        if process is not None:
            with suppress(subprocess.TimeoutExpired):
                status = process.wait(_ENDING_SECONDS)
        self.kill()
        return death(status)

    def _start(self) -> None:
        """As in PopenWorker, with our main module."""
        with self._lock:
            if self._ended:
                raise ChildProcessError("the worker was ended")
            if self._proc is None:
                self._start_process()

    def _start_process(self) -> None:
        our_reader, worker_writer = os.pipe()
        worker_reader, our_writer = os.pipe()
        descriptors = (worker_reader, worker_writer)
        words = [os.getpid(), *descriptors]
        self._proc = subprocess.Popen(
            [sys.executable, "-m", "aqd_deploy.tuning.worker_process", *map(str, words)],
            pass_fds=descriptors,
            stderr=self._stderr,
        )
        for descriptor in descriptors:
            os.close(descriptor)
        self._reader = os.fdopen(our_reader, "rb")
        self._writer = os.fdopen(our_writer, "wb")


class WorkerPool:
    """`count` worker processes, in place of TVM's PopenPoolExecutor. Calls wait until one is idle, and fail
    after `limit` seconds. Shut it down.
    """

    def __init__(self, count: int, limit: float) -> None:
        self._limit = limit
        self._workers = [Worker() for _ in range(count)]
        self._idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        # Threads that stay: a process is killed when the thread ends that started it.
        self._threads = ThreadPoolExecutor(count)

    def submit(self, function: Any, *arguments: Any) -> Future[Any]:
        """The result of a call in a worker process."""
        return self.lend(lambda worker: worker.call(function, arguments, self._limit))

    def lend(self, use: Callable[[Worker], _T]) -> Future[_T]:
        """The result of `use`, which is called with a worker that is idle."""

        def used() -> _T:
            worker = self._idle.get()
            try:
                return use(worker)
            finally:
                self._idle.put(worker)

        return self._threads.submit(used)

    def shutdown(self, wait: bool = True) -> None:
        """End the processes; what waits for them fails."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in self._workers:
            worker.end()
        self._threads.shutdown(wait=wait)
