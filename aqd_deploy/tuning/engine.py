"""Building and measuring candidates with MetaSchedule: its builder and runner interfaces, its `LocalRunner`,
its worker processes.

Kernels here are emitted from listed choices, not scheduled, so there is no trace for MetaSchedule's own
search strategies to mutate; `tune` searches instead. `LocalBuilder` starts new processes for each batch,
which import TVM and PyTorch for 4 s each before the first candidate of a fifth of a second: `PoolBuilder`
does the same work in processes that stay. `default_build` is never used (it imports all tensor intrinsics,
for longer than its own time limit, in every process).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import tvm
from tvm.ir.utils import derived_object
from tvm.s_tir.meta_schedule.builder import BuilderInput, BuilderResult, PyBuilder
from tvm.s_tir.meta_schedule.runner import EvaluatorConfig, LocalRunner, RunnerInput
from tvm.support.popen_pool import PopenPoolExecutor, StatusKind

from aqd_deploy.kernels.choice import Choice
from aqd_deploy.targets import Target
from aqd_deploy.targets.cpu import available_threads
from aqd_deploy.tuning import worker
from aqd_deploy.tuning.tasks import Task

BUILD_TIMEOUT, RUN_TIMEOUT = 60.0, 30.0
_FEW_WORKERS = 4


@derived_object
class PoolBuilder(PyBuilder):
    """A builder whose worker processes live as long as it does. Close it."""

    def __init__(self, workers: int) -> None:
        super().__init__()
        self.pool = PopenPoolExecutor(workers, timeout=BUILD_TIMEOUT, stderr=subprocess.DEVNULL)
        self.workers = workers

    def warm_up(self) -> None:
        """Start every worker and let it import what it needs."""
        for future in [self.pool.submit(worker.ready) for _ in range(self.workers)]:
            future.result()

    def build(self, build_inputs: list[BuilderInput]) -> list[BuilderResult]:
        """The library's path of every input, or its error."""
        arguments = [(entry.mod, entry.target) for entry in build_inputs]
        results = self.pool.map_with_error_catching(worker.build_pair, arguments)
        return [_builder_result(result) for result in results]

    def close(self) -> None:
        """End the worker processes."""
        self.pool.shutdown(wait=False)


def _builder_result(result: Any) -> BuilderResult:
    if result.status == StatusKind.COMPLETE:
        return BuilderResult(result.value, None)
    if result.status == StatusKind.TIMEOUT:
        return BuilderResult(None, f"not built within {BUILD_TIMEOUT:g} s")
    return BuilderResult(None, _last_line(str(result.value) or type(result.value).__name__))


@dataclass(frozen=True)
class Built:
    """A candidate: its library, or the reason why there is none."""

    choice: Choice
    library: Path | None
    error: str = ""

    def remove(self) -> None:
        """Delete its files."""
        if self.library is not None:
            shutil.rmtree(self.library.parent, ignore_errors=True)


@dataclass(frozen=True)
class Measured:
    """Seconds of each call of a candidate, and of the incumbent in turn with it; or why there are none."""

    seconds: list[float]
    incumbent: list[float]
    error: str = ""


class Engine:
    """Worker processes that build and run candidates for `device`. Start-up takes seconds; close it."""

    def __init__(self, device: Target) -> None:
        # Workers inherit these; without them TVM counts half the threads and pins its callers.
        os.environ.setdefault("TVM_NUM_THREADS", str(available_threads()))
        os.environ.setdefault("TVM_BIND_THREADS", "0")
        self.target = tvm.target.Target({**device.tvm(), "opt-level": 2})
        self.workers = min(available_threads(), _FEW_WORKERS)
        self.builder = PoolBuilder(self.workers)
        with ThreadPoolExecutor(2) as together:
            warming = together.submit(self.builder.warm_up)
            config = EvaluatorConfig(number=1, repeat=1, min_repeat_ms=0)
            self.runner = LocalRunner(timeout_sec=RUN_TIMEOUT, evaluator_config=config)
            self.runner.f_alloc_argument = worker.allocate
            warming.result()

    def build(self, task: Task, choices: list[Choice], operands: Path) -> list[Built]:
        """Build `choices` of `task` in parallel, with the operands that lie in the folder `operands`."""
        inputs = [
            BuilderInput(worker.candidate_module(task, choice, operands), self.target) for choice in choices
        ]
        return [
            Built(choice, Path(str(result.artifact_path)))
            if result.error_msg is None
            else Built(choice, None, str(result.error_msg))
            for choice, result in zip(choices, self.builder.build(inputs), strict=True)
        ]

    def measure(self, task: Task, candidate: Path, incumbent: Path | None) -> Measured:
        """Check the integers of a candidate and time it in turn with the incumbent."""
        definition = json.dumps(task.to_json())
        best = None if incumbent is None else str(incumbent)
        self.runner.f_run_evaluator = partial(worker.evaluate, str(candidate), best, definition)
        (future,) = self.runner.run([RunnerInput(str(candidate), "cpu", [])])
        result = future.result()
        if result.error_msg is not None:
            return Measured([], [], _last_line(str(result.error_msg)))
        seconds = [float(value) for value in result.run_secs]
        if best is None:
            return Measured(seconds, [])
        return Measured(seconds[::2], seconds[1::2])

    def close(self) -> None:
        """End the worker processes."""
        self.builder.close()
        self.runner.pool.shutdown(wait=False)

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no message"
