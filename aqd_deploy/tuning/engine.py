"""Building and measuring candidates with MetaSchedule: its builder and runner interfaces, its `LocalRunner`,
its worker processes.

Kernels here are emitted from listed choices, not scheduled, so there is no trace for MetaSchedule's own
search strategies to mutate; `tune` searches instead. `LocalBuilder` starts new processes for each batch,
which import TVM and PyTorch for 4 s each before the first candidate of a fifth of a second: `PoolBuilder`
does the same work in processes that stay. `default_build` is never used (it imports all tensor intrinsics,
for longer than its own time limit, in every process). `records` takes the place of `JSONDatabase`, whose
records are traces of schedules: it has no header to tell another CPU or version by, no rejected candidates
with their reasons, and one torn line makes it unreadable.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from tvm.ir.utils import derived_object
from tvm.s_tir.meta_schedule.builder import BuilderInput, BuilderResult, PyBuilder
from tvm.s_tir.meta_schedule.runner import EvaluatorConfig, LocalRunner, RunnerInput

from aqd_deploy.compiler.lower import codegen_target
from aqd_deploy.compiler.toolchain import find_toolchain
from aqd_deploy.devices.rpc_tracker import Tracker
from aqd_deploy.errors import line_of
from aqd_deploy.kernels.contract.choice import Choice
from aqd_deploy.records.task import Task
from aqd_deploy.targets import Target
from aqd_deploy.targets.cpu import available_threads
from aqd_deploy.tuning import boards, worker
from aqd_deploy.tuning.failures import Fault, cannot_go_on, fault_of
from aqd_deploy.tuning.pool import Worker, WorkerPool

BUILD_TIMEOUT, RUN_TIMEOUT = 60.0, 15.0
OUT_OF_TIME = "the budget ended first"
_MOST_WORKERS = 4

_T = TypeVar("_T")


@derived_object
class PoolBuilder(PyBuilder):
    """A builder whose worker processes stay for the next batch.

    Nothing is built after `deadline` (`time.monotonic()`): what is not ready by then fails with OUT_OF_TIME.
    """

    def __init__(self, pool: WorkerPool) -> None:
        super().__init__()
        self.deadline = math.inf
        self.pool = pool

    def build(self, build_inputs: list[BuilderInput]) -> list[BuilderResult]:
        """The library's path of every input, or its error."""
        futures = [self.pool.lend(partial(self._build_one, entry)) for entry in build_inputs]
        return [future.result() for future in futures]

    def _build_one(self, entry: BuilderInput, process: Worker) -> BuilderResult:
        left = self.deadline - time.monotonic()
        if left <= 0:
            return BuilderResult(None, OUT_OF_TIME)
        return _built(process, entry, min(left, BUILD_TIMEOUT))


@derived_object
class _LocalRunner(LocalRunner._cls):  # type: ignore[misc,name-defined]
    """MetaSchedule's runner, whose process is one of ours."""

    def __init__(self, pool: WorkerPool) -> None:
        self._ours = pool
        config = EvaluatorConfig(number=1, repeat=1, min_repeat_ms=0)
        super().__init__(timeout_sec=RUN_TIMEOUT, evaluator_config=config, f_alloc_argument=worker.allocate)

    def _sanity_check(self) -> None:
        """Called when the runner's own pool is there and has not started a process."""
        self.pool = self._ours


def _built(process: Worker, entry: BuilderInput, limit: float) -> BuilderResult:
    try:
        path = process.call(worker.build_candidate, (entry.mod, entry.target), limit)
    except TimeoutError:
        late = f"not built within {limit:g} s" if limit == BUILD_TIMEOUT else OUT_OF_TIME
        return BuilderResult(None, late)
    except Exception as error:
        return BuilderResult(None, line_of(error, -1))
    return BuilderResult(path, None)


@dataclass(frozen=True)
class Job:
    """A candidate to build: a choice of a task, and the folder of the task's operands."""

    task: Task
    choice: Choice
    operands: Path


@dataclass(frozen=True)
class Built:
    """A candidate: its library, or the reason why there is none and whose fault that is."""

    choice: Choice
    library: Path | None
    error: str = ""
    fault: Fault = Fault.CANDIDATE

    @property
    def unfinished(self) -> bool:
        """Whether it was given up for lack of time."""
        return self.error == OUT_OF_TIME

    def failure(self) -> Measured:
        """What came of a candidate that was not built."""
        return Measured([], [], self.error, self.fault)

    def remove(self) -> None:
        """Delete its files."""
        if self.library is not None:
            shutil.rmtree(self.library.parent, ignore_errors=True)


@dataclass(frozen=True)
class Trial:
    """A measurement to make: the library of a candidate of a task, and that of the incumbent if any."""

    task: Task
    candidate: Path
    incumbent: Path | None


@dataclass(frozen=True)
class Measured:
    """Seconds of each call of a candidate, and of the incumbent in turn with it; or why there are none, and
    whose fault that is.
    """

    seconds: list[float]
    incumbent: list[float]
    error: str = ""
    fault: Fault = Fault.CANDIDATE

    @property
    def lost(self) -> bool:
        """Whether it failed for no fault of the candidate's."""
        return bool(self.error) and self.fault is not Fault.CANDIDATE


class Engine:
    """Worker processes that build candidates for `device` and run them, here or on the boards of a tracker.
    Start-up takes seconds; close it. Raises TuningError where its processes do not start.
    """

    def __init__(self, device: Target, tracker: Tracker | None = None) -> None:
        self.tracker = tracker
        self.toolchain, self.backend = find_toolchain(device), device.backend
        # Workers inherit these; without them TVM counts half the threads and pins its callers.
        os.environ.setdefault("TVM_NUM_THREADS", str(available_threads()))
        os.environ.setdefault("TVM_BIND_THREADS", "0")
        self.target = codegen_target(device)
        self.workers = min(available_threads(), _MOST_WORKERS)
        # TVM calls back from C++, which an exception that a signal raises in the main thread cannot cross.
        self._calls = ThreadPoolExecutor(1)
        self._building = WorkerPool(self.workers, BUILD_TIMEOUT)
        self._measuring = WorkerPool(1, RUN_TIMEOUT) if tracker is None else boards.board_pool(tracker)
        try:
            warming = [self._building.submit(worker.ready) for _ in range(self.workers)]
            warming.append(self._measuring.submit(worker.ready))
            self.builder = PoolBuilder(self._building)
            self.runner = (
                _LocalRunner(self._measuring)
                if tracker is None
                else boards.BoardsRunner(self._measuring, tracker)
            )
            _wait_for(warming, tracker)
        except BaseException:
            self.close()
            raise

    @property
    def parallel(self) -> int:
        """How many candidates are measured at a time: one here, or one on each board that is there now.

        Raises DeviceError where no board is left.
        """
        return 1 if self.tracker is None else self.tracker.servers()

    def build(self, jobs: list[Job], deadline: float = math.inf) -> list[Built]:
        """Build candidates in parallel; what is not ready at `deadline`, a monotonic time, is unfinished."""
        self.builder.deadline = deadline
        inputs = [
            BuilderInput(
                worker.candidate_module(job.task, job.choice, job.operands, self.backend, self.toolchain),
                self.target,
            )
            for job in jobs
        ]
        return [
            _built_as_told(job.choice, result)
            for job, result in zip(jobs, self._call(lambda: self.builder.build(inputs)), strict=True)
        ]

    def measure(self, trials: list[Trial]) -> list[Measured]:
        """Check the integers of candidates and time each in turn with its incumbent.

        Boards measure at the same time; one that is lost costs the measurement that it was at.
        """
        evaluator = _local_evaluator if self.tracker is None else boards.evaluator

        def measured() -> list[Measured]:
            futures = []
            for trial in trials:
                self.runner.f_run_evaluator = evaluator(trial.candidate, trial.incumbent, trial.task)
                futures += self.runner.run([RunnerInput(str(trial.candidate), "cpu", [])])
            return [_measured(trial, future.result()) for trial, future in zip(trials, futures, strict=True)]

        return self._call(measured)

    def _call(self, function: Callable[[], _T]) -> _T:
        return self._calls.submit(function).result()

    def close(self) -> None:
        """End the worker processes."""
        self._building.shutdown()
        self._measuring.shutdown()
        self._calls.shutdown()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _wait_for(warming: list[Future[Any]], tracker: Tracker | None) -> None:
    """Raise TuningError where a worker process does not start."""
    for future in warming:
        try:
            future.result()
        except Exception as error:  # whatever ended it, or did not let it import
            raise cannot_go_on(line_of(error, -1), "" if tracker is None else tracker.text) from error


def _built_as_told(choice: Choice, result: Any) -> Built:
    if result.error_msg is None:
        return Built(choice, Path(str(result.artifact_path)))
    reason = str(result.error_msg)
    return Built(choice, None, reason, fault_of(reason))


def _local_evaluator(candidate: Path, incumbent: Path | None, task: Task) -> Any:
    best = None if incumbent is None else str(incumbent)
    return partial(worker.evaluate, str(candidate), best, json.dumps(task.to_json()))


def _measured(trial: Trial, result: Any) -> Measured:
    if result.error_msg is not None:
        reason = _last_line(str(result.error_msg))
        return Measured([], [], reason, fault_of(reason))
    seconds = [float(value) for value in result.run_secs]
    if trial.incumbent is None:
        return Measured(seconds, [])
    return Measured(seconds[::2], seconds[1::2])


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    last = lines[-1] if lines else "no message"
    # Names of temporary files fill the middle.
    return last if len(last) <= 300 else f"{last[:150]} ... {last[-140:]}"
