"""Tune the convolutions of a network within a time budget.

First the default of every task is measured, the largest first; then batches of candidates go to the task
from which the next batch is expected to save the most time of the whole network: its share of the time, times
the improvement that its last batches brought. A candidate becomes the best of its task only if it returns the
reference's integers, has the intended instructions, and is faster than the best so far in calls that
alternate with it, by the minimum and by the median. What is good for one task is tried on those of the same
convolution with another epilogue.

A candidate that is lost (not measured, for no fault of its own) has no record: a later run tries it again.
Where one after the other is lost, the run ends.
"""

from __future__ import annotations

import importlib.util
import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import onnx

from aqd_deploy.compiler.lower import complete_target
from aqd_deploy.compiler.plan import Conv, Plan
from aqd_deploy.compiler.planning import plan_model
from aqd_deploy.compiler.relax_module import kernel_threads
from aqd_deploy.devices.rpc_tracker import Tracker
from aqd_deploy.errors import BudgetError, MissingExtraError, TargetError, TuningError
from aqd_deploy.files import TemporaryFolder
from aqd_deploy.kernels.backends import backend_of
from aqd_deploy.kernels.contract.choice import Choice
from aqd_deploy.records.file import ACCEPTED, REJECTED, SLOWER, Header, Record, RecordsFile
from aqd_deploy.records.task import Task
from aqd_deploy.targets import Target, get, read_cpu
from aqd_deploy.targets.cpu import available_threads, usual_threads
from aqd_deploy.targets.threads import thread_limits
from aqd_deploy.tuning.engine import Built, Engine, Job, Measured, Trial
from aqd_deploy.tuning.failures import Fault, cannot_go_on
from aqd_deploy.tuning.network import Use, network_tasks
from aqd_deploy.tuning.operands import layer_operands
from aqd_deploy.tuning.progress import LEAST_GAIN, Progress, TaskState, network_seconds
from aqd_deploy.tuning.space import Space

BATCH = 8
# What one candidate takes before any was timed, and what is kept for the end of the run, in seconds.
FIRST_GUESS, RESERVE = 1.0, 0.5
# Choices that are tried as a task's first where one does not build or is not exact.
_FIRST_ATTEMPTS = 3
# So many candidates in a row (of each board) that are lost to the machine end the run.
_PATIENCE = 3

_Item = TypeVar("_Item")


@dataclass
class TuneReport:
    """What a run did: the tasks' states, seconds it took, candidates measured in it, lines about records."""

    states: list[TaskState]
    seconds: float
    measured: int
    notes: list[str] = field(default_factory=list)


def device_tasks(plan: Plan, device: Target, threads: int) -> list[Use]:
    """The tasks of a network as `compile_model` builds it for `device`. Raises TargetError where no kernels
    are written for it.
    """
    backend = backend_of(device)

    def workers(op: Conv) -> int:
        return kernel_threads(plan, op, backend, threads)

    return network_tasks(plan, backend.isa, workers, backend.core)


def task_states(plan: Plan, device: Target, threads: int) -> list[TaskState]:
    """The tasks of a network with their spaces, nothing measured."""
    states, backend = [], backend_of(device)
    for use in device_tasks(plan, device, threads):
        choices = backend.choices(use.task.spec, use.task.threads)
        states.append(TaskState(use, Space(choices), choices[0]))
    return states


def check_device(device: Target, threads: int, tracker: Tracker | None = None) -> None:
    """Raise TargetError where this machine, or a board of `tracker`, cannot run what is to be measured."""
    if tracker is not None:
        if device.name != device.profile:
            raise TargetError(
                "boards need a target by its profile's name",
                received=device.name,
                valid="a name of aqd-deploy targets list other than host",
                next_command=f"aqd-deploy tune MODEL.onnx --target NAME --device {tracker.text}",
            )
        tracker.servers()
        return
    cpu = read_cpu()
    missing = device.missing_on(cpu)
    if missing:
        raise TargetError(
            "this machine cannot run what is to be tuned",
            received=f"{device.name}, which needs {cpu.told(missing)}",
            valid="a target of this machine, or --device rpc:HOST:PORT/KEY",
            next_command="aqd-deploy tune MODEL.onnx --target host",
        )
    if threads > available_threads():
        raise TargetError(
            "more threads than this process has use for",
            received=threads,
            valid=f"1 to {available_threads()} ({thread_limits()})",
        )


def require_extra() -> None:
    """Raise MissingExtraError where a package of TVM's worker processes is not installed."""
    missing = [name for name in ("cloudpickle", "psutil") if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"tuning needs {' and '.join(missing)}", next_command="pip install 'aqd-deploy[tune]'"
        )


def require_time(what: str, started: float, budget: float) -> None:
    """Raise BudgetError where the budget is spent after `what`, before anything was measured."""
    elapsed = time.monotonic() - started
    if elapsed >= budget:
        raise BudgetError(
            f"the budget is too small for one measurement: {what} ended after {elapsed:.1f} s",
            valid="at least a minute; ten for a detector",
            next_command="aqd-deploy tune MODEL.onnx --budget 10m",
        )


def tune(
    int_model: onnx.ModelProto,
    folder: Path,
    *,
    budget: float,
    target: str | Target = "host",
    threads: int | None = None,
    tracker: Tracker | None = None,
    started: float | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> TuneReport:
    """Tune integer ONNX for `budget` seconds from `started` (`time.monotonic()`), and write `folder`.

    Candidates run on this machine, or on the boards of `tracker`; one that is lost on the way costs a
    measurement. A later run with the same folder goes on where this one ends, or was killed. Raises what
    `compile_model` raises for the model, TargetError for a target that this machine cannot run, RecordsError
    where another process has the folder, BudgetError where not one measurement fits the budget, TuningError
    where the machine does not let one be made, DeviceError where no board is left.
    """
    started = time.monotonic() if started is None else started
    threads = threads or usual_threads()
    device = complete_target(get(target))
    require_extra()
    check_device(device, threads, tracker)
    plan = plan_model(int_model)
    states = task_states(plan, device, threads)
    require_time("reading the model", started, budget)
    with RecordsFile(folder, records_header(device, tracker), device) as file:
        for state in states:
            state.replay(file.records.candidates)
        with TemporaryFolder() as scratch:
            boards = "" if tracker is None else tracker.text
            tuner = _Tuner(plan, states, file, scratch, started, budget, on_progress, boards)
            with Engine(device, tracker) as engine:
                tuner.run(engine)
        notes = [*file.records.notes, *tuner.notes()]
    return TuneReport(states, time.monotonic() - started, tuner.measured, notes)


def records_header(device: Target, tracker: Tracker | None) -> Header:
    """For what the numbers hold: this machine's CPU, or boards by their key."""
    here = Header.here(device)
    return here if tracker is None else replace(here, cpu=tracker.key, model=f"boards {tracker.key}")


class _Tuner:
    def __init__(
        self,
        plan: Plan,
        states: list[TaskState],
        file: RecordsFile,
        scratch: Path,
        started: float,
        budget: float,
        on_progress: Callable[[Progress], None],
        boards: str = "",
    ) -> None:
        self.plan = plan
        self.states = states
        self.file = file
        self.scratch = scratch
        self.started = started
        self.budget = budget
        self.on_progress = on_progress
        self.boards = boards
        self.measured = 0
        # Candidates that were lost: all, those in a row, defaults by task, and why the last one was.
        self.lost, self.lost_in_a_row, self.reason = 0, 0, ""
        self.lost_defaults = Counter[str]()
        self.candidate_seconds = FIRST_GUESS
        self.incumbents: dict[str, Built] = {}

    def run(self, engine: Engine) -> None:
        """Measure until the budget is spent or nothing is left to try. Raises TuningError where the machine
        does not let it, or no task has a time at the end.
        """
        require_time("starting TVM's worker processes", self.started, self.budget)
        self._measure_defaults(engine)
        while True:
            state = max(self.states, key=lambda s: s.priority, default=None)
            count = self._affordable(BATCH)
            if state is None or state.priority <= 0 or count < 1:
                break
            self._search(engine, state, count)
        if self.reason and not self.measured:
            raise cannot_go_on(self.reason, self.boards)
        if not any(state.started for state in self.states):
            rejected = self.file.records.candidates[-1]
            raise TuningError("no candidate of this network can be used here", received=rejected.reason,
                              next_command="aqd-deploy doctor")  # fmt: skip

    def notes(self) -> list[str]:
        """A line about what was not measured."""
        return [f"{self.lost} not measured, to be tried again: {self.reason}"] if self.lost else []

    @property
    def _deadline(self) -> float:
        return self.started + self.budget

    def _left(self) -> float:
        return self._deadline - time.monotonic()

    def _affordable(self, most: int) -> int:
        """How many candidates fit the rest of the budget, at most `most`."""
        return min(most, int((self._left() - RESERVE) / self.candidate_seconds))

    def _folder(self, state: TaskState) -> Path:
        """The operands of a task, written when they are first needed."""
        folder = self.scratch / state.use.task.key
        if not folder.exists():
            layer_operands(self.plan, state.use.operations[0]).save(folder)
        return folder

    def _measure_defaults(self, engine: Engine) -> None:
        """Measure one choice of every task that has none: the first that builds and is exact."""
        waiting = [state for state in self.states if not state.started]
        while waiting and self._affordable(1):
            part, waiting = waiting[: engine.workers], waiting[engine.workers :]
            built = zip(part, self._build_first(engine, part), strict=True)
            ready = [(state, candidate) for state, candidate in built if not candidate.unfinished]
            for state, candidate in ready:
                state.space.tried.add(candidate.choice)
            for group in _groups(ready, engine):
                results = _measure(engine, [(s.use.task, candidate, None) for s, candidate in group])
                for (state, candidate), result in zip(group, results, strict=True):
                    self._settle_default(engine, state, candidate, result)
            for state, _ in ready:
                if not state.started and len(state.space.tried) < min(_FIRST_ATTEMPTS, len(state.space)):
                    waiting.append(state)
        if not (self.measured or self.reason or any(state.started for state in self.states)):
            require_time("preparing the first measurement", self.started, 0.0)

    def _settle_default(self, engine: Engine, state: TaskState, candidate: Built, result: Measured) -> None:
        """Keep what came of a task's first candidate. One that is lost is the next one, too: another would be
        accepted without having been compared with it.
        """
        if not result.lost:
            self._settle(state, candidate, _record(state.use.task, candidate.choice, result))
            self._tell(state)
            return
        state.space.tried.discard(candidate.choice)
        self._lose(engine, candidate, result)
        self.lost_defaults[state.use.task.key] += 1
        if self.lost_defaults[state.use.task.key] == _FIRST_ATTEMPTS:
            raise cannot_go_on(result.error, self.boards)

    def _build_first(self, engine: Engine, states: list[TaskState]) -> list[Built]:
        jobs = []
        for state in states:
            choice = next(c for c in state.space.choices if c not in state.space.tried)
            jobs.append(Job(state.use.task, choice, self._folder(state)))
        return engine.build(jobs, self._deadline)

    def _search(self, engine: Engine, state: TaskState, count: int) -> None:
        """Build and measure one batch of candidates of a task."""
        began, before = time.monotonic(), state.seconds or 0.0
        task, folder = state.use.task, self._folder(state)
        hints, state.hints = state.hints, []
        proposed = state.space.propose(state.best, count, hints)
        wanted = proposed if task.key in self.incumbents else [state.best, *proposed]
        built = engine.build([Job(task, choice, folder) for choice in wanted], self._deadline)
        if task.key not in self.incumbents:
            incumbent = built.pop(0)
            if incumbent.library is None and not incumbent.unfinished:
                # It was built before, so that is the machine's failure, and nothing can be compared.
                self._lose(engine, incumbent, replace(incumbent.failure(), fault=Fault.MACHINE))
            else:
                self.incumbents[task.key] = incumbent
        done = 0
        for group in _groups(built, engine):
            built_best = self.incumbents.get(task.key)
            best = None if built_best is None else built_best.library
            late = best is None or self._left() < RESERVE
            ready = [candidate for candidate in group if not (late or candidate.unfinished)]
            for candidate in group:
                if candidate not in ready:
                    candidate.remove()
            results = _measure(engine, [(task, candidate, best) for candidate in ready])
            self._settle_group(engine, state, ready, results)
            done += len(ready)
        if done:
            self.candidate_seconds = (time.monotonic() - began) / done
        gain = 1 - (state.seconds or 0.0) / before if before else 0.0
        state.expect(gain)
        if gain:
            self._share(state)
        self._tell(state)

    def _lose(self, engine: Engine, candidate: Built, result: Measured) -> None:
        """Leave a candidate without a record. Raises TuningError where one after the other is lost."""
        candidate.remove()
        self.lost += 1
        self.reason = result.error
        self.lost_in_a_row += result.fault is Fault.MACHINE
        if self.lost_in_a_row >= _PATIENCE * engine.parallel:
            raise cannot_go_on(result.error, self.boards)

    def _settle_group(
        self, engine: Engine, state: TaskState, group: list[Built], results: list[Measured]
    ) -> None:
        """Record candidates measured beside the same incumbent: only the best may take its place."""
        beaten = False
        ranked = sorted(zip(group, results, strict=True), key=lambda pair: _ratio(pair[1]))
        for candidate, result in ranked:
            if result.lost:
                self._lose(engine, candidate, result)
                continue
            record = _record(state.use.task, candidate.choice, result)
            if beaten and record.state == ACCEPTED:
                record = replace(record, state=SLOWER)
            beaten = beaten or record.state == ACCEPTED
            self._settle(state, candidate, record)

    def _settle(self, state: TaskState, candidate: Built, record: Record) -> None:
        """Keep the record of a candidate, and make it the best one where it is."""
        task = state.use.task
        self.file.define(task.key, task.shape_key, task.to_json())
        self.file.add(record)
        state.note(record)
        self.measured += 1
        self.lost_in_a_row = 0
        if record.state == ACCEPTED:
            previous = self.incumbents.pop(task.key, None)
            if previous is not None:
                previous.remove()
            self.incumbents[task.key] = candidate
        else:
            candidate.remove()

    def _share(self, winner: TaskState) -> None:
        """Let tasks of the same convolution try the new best choice next."""
        for state in self.states:
            if state is not winner and state.use.task.shape_key == winner.use.task.shape_key:
                state.hints.append(winner.best)
                state.expectation = max(state.expectation, winner.expectation)

    def _tell(self, state: TaskState) -> None:
        default, best = network_seconds(self.states)
        self.on_progress(
            Progress(
                elapsed=time.monotonic() - self.started,
                budget=self.budget,
                tasks=len(self.states),
                started=sum(s.started for s in self.states),
                measured=self.measured,
                task=state,
                default_seconds=default,
                seconds=best,
            )
        )


def _groups(items: list[_Item], engine: Engine) -> Iterator[list[_Item]]:
    """`items` in parts as large as the engine measures at a time, which may change on the way."""
    while items:
        count = engine.parallel
        yield items[:count]
        items = items[count:]


def _measure(engine: Engine, wanted: list[tuple[Task, Built, Path | None]]) -> list[Measured]:
    """What came of each candidate of a task beside an incumbent; one that was not built has its error."""
    trials = [
        Trial(task, candidate.library, incumbent)
        for task, candidate, incumbent in wanted
        if candidate.library is not None
    ]
    results = iter(engine.measure(trials))
    return [candidate.failure() if candidate.library is None else next(results) for _, candidate, _ in wanted]


def _ratio(result: Measured) -> float:
    """A candidate's time by its incumbent's on the same board; infinite where either is missing."""
    if result.error or not result.incumbent:
        return math.inf
    return min(result.seconds) / min(result.incumbent)


def _record(task: Task, choice: Choice, result: Measured) -> Record:
    """Accepted where it is the first, or faster than the incumbent by minimum and median."""
    if result.error:
        return Record(task.key, choice, REJECTED, reason=result.error)
    seconds = min(result.seconds)
    if not result.incumbent:
        return Record(task.key, choice, ACCEPTED, seconds)
    best = min(result.incumbent)
    faster = seconds < (1 - LEAST_GAIN) * best
    steady = statistics.median(result.seconds) < statistics.median(result.incumbent)
    return Record(task.key, choice, ACCEPTED if faster and steady else SLOWER, seconds, best)
