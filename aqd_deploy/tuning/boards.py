"""Measuring candidates on the boards of a TVM RPC tracker, one candidate on each board at a time.

`BoardsRunner` is MetaSchedule's `RPCRunner` with our way to check and time a candidate. What runs in its
worker processes holds one board each: it uploads a candidate and the incumbent, checks the candidate's
integers against the reference, and has the board time both in turn.
"""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm.ir.utils import derived_object
from tvm.s_tir.meta_schedule.runner import EvaluatorConfig, RPCConfig, RPCRunner

from aqd_deploy.devices.rpc_tracker import Tracker
from aqd_deploy.errors import DeviceError
from aqd_deploy.kernels.reference import output_buffers
from aqd_deploy.records.task import Task
from aqd_deploy.tuning import worker
from aqd_deploy.tuning.failures import NotExactError
from aqd_deploy.tuning.operands import Operands
from aqd_deploy.tuning.pool import WorkerPool

# Seconds that a measurement may hold a board, and that it may take with the wait for one that is free.
BOARD_TIMEOUT, WAIT_TIMEOUT = 30, 90.0
# Calls of one contender before it is the other's turn: each turn crosses the network.
_TURN = 5
_MOST_TURNS = 40


def board_pool(tracker: Tracker) -> WorkerPool:
    """A worker process for each board that is there. Raises DeviceError where none is."""
    return WorkerPool(tracker.servers(), WAIT_TIMEOUT)


@derived_object
class BoardsRunner(RPCRunner._cls):  # type: ignore[misc,name-defined]
    """Measures in the processes of `board_pool`: MetaSchedule's wait for ever for one that is gone."""

    def __init__(self, pool: WorkerPool, tracker: Tracker) -> None:
        self._ours = pool
        super().__init__(
            rpc_config=RPCConfig(
                tracker_host=tracker.host,
                tracker_port=tracker.port,
                tracker_key=tracker.key,
                session_timeout_sec=BOARD_TIMEOUT,
            ),
            evaluator_config=EvaluatorConfig(number=1, repeat=1, min_repeat_ms=0),
            f_upload_module=_nothing_uploaded,
            f_alloc_argument=_nothing_allocated,
            f_cleanup=_session_ends,
        )

    def _sanity_check(self) -> None:
        """Called when the runner's own pool is there and has not started a process."""
        self.pool = self._ours


def evaluator(candidate: Path, incumbent: Path | None, task: Task) -> Any:
    """The runner's `f_run_evaluator` of one measurement."""
    best = None if incumbent is None else str(incumbent)
    return partial(evaluate_on_board, str(candidate), best, json.dumps(task.to_json()))


def evaluate_on_board(
    library: str,
    incumbent: str | None,
    definition: str,
    session: Any,
    _module: Any,
    device: Any,
    _config: Any,
    _arguments: Any,
) -> list[float]:
    """Check a candidate on a board, then time it in turn with the best one so far.

    Returns what `worker.evaluate` returns. Raises NotExactError.
    """
    task = Task.from_json(json.loads(definition))
    _use_threads(session, task.threads)
    candidate = _OnBoard(session, device, Path(library), task, "candidate.so")
    candidate.check()
    contenders = [candidate]
    if incumbent is not None:
        contenders.append(_OnBoard(session, device, Path(incumbent), task, "incumbent.so"))
    return _timed(contenders, worker.SCREEN_SECONDS if incumbent is None else worker.CONFIRM_SECONDS)


def _use_threads(session: Any, threads: int) -> None:
    """Raises DeviceError where the board's server uses fewer: records hold for a number of threads."""
    session.get_function("runtime.config_threadpool")(1, threads)
    used = int(session.get_function("runtime.NumThreads")())
    if used < threads:
        raise DeviceError(
            "the board's server uses fewer threads than are to be measured",
            received=used,
            valid=str(threads),
            next_command=f"TVM_NUM_THREADS={threads} where the server is started, "
            f"or the same command with --threads {used}",
        )


class _OnBoard:
    """A built candidate with its operands in a board's memory."""

    def __init__(self, session: Any, device: Any, library: Path, task: Task, name: str) -> None:
        operands = Operands.load(library.parent.parent)
        packed = np.load(library.parent / "packed.npy")
        session.upload(str(library), name)
        self._module = session.load_module(name)
        self._device = device
        inputs = [operands.data, packed, *operands.parameters]
        outputs = output_buffers(task.spec, task.epilogue)
        self._tensors = [tvm.runtime.tensor(array, device) for array in (*inputs, *outputs)]
        self._expected = operands.expected

    def check(self) -> None:
        """Raises NotExactError where one integer differs from the reference."""
        self._module[worker.SYMBOL](*self._tensors)
        for index, expected in enumerate(self._expected, -len(self._expected)):
            result = self._tensors[index].numpy()
            differing = int(np.count_nonzero(expected != result))
            if differing:
                raise NotExactError(
                    f"output {index + len(self._expected)}: {differing} of {expected.size} integers differ"
                )

    def turn(self) -> list[float]:
        """Seconds of a few calls, by the board's clock."""
        timed = self._module.time_evaluator(worker.SYMBOL, self._device, number=1, repeat=_TURN)
        return [float(value) for value in timed(*self._tensors).results]


def _timed(contenders: list[_OnBoard], limit: float) -> list[float]:
    """Seconds of the contenders' calls, call by call in turn, for `limit` seconds in all."""
    seconds: list[float] = []
    for _ in range(_MOST_TURNS):
        turns = [contender.turn() for contender in contenders]
        seconds += [value for calls in zip(*turns, strict=True) for value in calls]
        if math.fsum(seconds) >= limit:
            break
    return seconds


def _nothing_uploaded(_session: Any, _local: str, _remote: str) -> None:
    """The runner's `f_upload_module`: the evaluator uploads the candidate beside the incumbent."""


def _nothing_allocated(_session: Any, _device: Any, _info: Any, _repeat: int) -> list[Any]:
    """The runner's `f_alloc_argument`: operands lie in files beside the candidate."""
    return []


def _session_ends(_session: Any, _path: str | None) -> None:
    """The runner's `f_cleanup`: a board's server removes the session's folder with the session."""
