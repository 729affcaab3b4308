"""Tune the convolutions of a network within a time budget.

First the default of every task is measured, the largest first; then batches of candidates go to the task
from which the next batch is expected to save the most time of the whole network: its share of the time, times
the improvement that its last batches brought. A candidate becomes the best of its task only if it returns the
reference's integers, has the intended instructions, and is faster than the best so far in calls that
alternate with it, by the minimum and by the median. What is good for one task is tried on those of the same
convolution with another epilogue.
"""

from __future__ import annotations

import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import onnx

from aqd_deploy.compiler.lower import complete_target
from aqd_deploy.compiler.plan import Plan
from aqd_deploy.compiler.planning import plan_model
from aqd_deploy.compiler.relax_module import kernel_threads
from aqd_deploy.errors import BudgetError, MissingExtraError, RecordsError, TargetError
from aqd_deploy.kernels.choice import Choice
from aqd_deploy.kernels.conv import conv_choices
from aqd_deploy.kernels.isa import Isa
from aqd_deploy.targets import Target, get, read_cpu
from aqd_deploy.targets.cpu import available_threads
from aqd_deploy.tuning.engine import Built, Engine, Job, Measured
from aqd_deploy.tuning.operands import layer_operands
from aqd_deploy.tuning.progress import Progress, TaskState, network_seconds
from aqd_deploy.tuning.records import ACCEPTED, REJECTED, SLOWER, Header, Record, RecordsFile
from aqd_deploy.tuning.space import Space
from aqd_deploy.tuning.tasks import Task, Use, network_tasks

BATCH = 8
# Faster by less than this is noise.
LEAST_GAIN = 0.01
# What one candidate takes before any was timed, and what is kept for the end of the run, in seconds.
FIRST_GUESS, RESERVE = 1.0, 0.5
# Choices that are tried as a task's first where one does not build or is not exact.
_FIRST_ATTEMPTS = 3


@dataclass
class TuneReport:
    """What a run did: the tasks' states, seconds it took, candidates measured in it, lines about records."""

    states: list[TaskState]
    seconds: float
    measured: int
    notes: list[str] = field(default_factory=list)


def device_tasks(plan: Plan, device: Target, threads: int) -> list[Use]:
    """The tasks of a network as `compile_model` builds it for `device`."""
    return network_tasks(plan, Isa(device.kernels), lambda op: kernel_threads(plan, op, threads))


def task_states(plan: Plan, device: Target, threads: int) -> list[TaskState]:
    """The tasks of a network with their spaces, nothing measured."""
    states = []
    for use in device_tasks(plan, device, threads):
        choices = conv_choices(use.task.spec, use.task.isa, use.task.threads)
        states.append(TaskState(use, Space(choices), choices[0]))
    return states


def check_device(device: Target, threads: int) -> None:
    """Raise TargetError where this machine cannot run what is to be measured."""
    missing = device.missing_on(read_cpu())
    if missing:
        raise TargetError(
            "this machine cannot run what is to be tuned",
            received=f"{device.name}, which needs {', '.join(missing)}",
            valid="a target of this machine",
            next_command="aqd-deploy tune MODEL.onnx --target host",
        )
    if threads > available_threads():
        raise TargetError(
            "more threads than this machine has", received=threads, valid=f"1 to {available_threads()}"
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
    started: float | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> TuneReport:
    """Tune integer ONNX for `budget` seconds from `started` (`time.monotonic()`), and write `folder`.

    A later run with the same folder goes on where this one ends, or was killed. Raises what
    `compile_model` raises for the model, TargetError for a target that this machine cannot run, RecordsError
    where another process has the folder, BudgetError where not one measurement fits the budget.
    """
    started = time.monotonic() if started is None else started
    threads = threads or available_threads()
    device = complete_target(get(target))
    require_extra()
    check_device(device, threads)
    plan = plan_model(int_model)
    states = task_states(plan, device, threads)
    require_time("reading the model", started, budget)
    with RecordsFile(folder, Header.here(device), device) as file:
        for state in states:
            state.replay(file.records.candidates)
        with tempfile.TemporaryDirectory(prefix="aqd-tune-") as scratch:
            tuner = _Tuner(plan, states, file, Path(scratch), started, budget, on_progress)
            with Engine(device) as engine:
                tuner.run(engine)
        notes = file.records.notes
    return TuneReport(states, time.monotonic() - started, tuner.measured, notes)


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
    ) -> None:
        self.plan = plan
        self.states = states
        self.file = file
        self.scratch = scratch
        self.started = started
        self.budget = budget
        self.on_progress = on_progress
        self.measured = 0
        self.candidate_seconds = FIRST_GUESS
        self.incumbents: dict[str, Built] = {}
        self.seen: set[str] = set()

    def run(self, engine: Engine) -> None:
        """Measure until the budget is spent or nothing is left to try."""
        require_time("starting TVM's worker processes", self.started, self.budget)
        self._measure_defaults(engine)
        while True:
            state = max(self.states, key=lambda s: s.priority, default=None)
            count = self._affordable(BATCH)
            if state is None or state.priority <= 0 or count < 1:
                break
            self._search(engine, state, count)

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
            for state, built in zip(part, self._build_first(engine, part), strict=True):
                if built.unfinished:
                    continue
                state.space.tried.add(built.choice)
                self._judge(engine, state, built, None)
                self._tell(state)
                if not state.started and len(state.space.tried) < min(_FIRST_ATTEMPTS, len(state.space)):
                    waiting.append(state)
        if not self.measured and not any(state.started for state in self.states):
            require_time("preparing the first measurement", self.started, 0.0)

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
            self.incumbents[task.key] = built.pop(0)
        done = 0
        for candidate in built:
            incumbent = self.incumbents[task.key].library
            if candidate.unfinished or incumbent is None or self._left() < RESERVE:
                candidate.remove()
                continue
            self._judge(engine, state, candidate, incumbent)
            done += 1
        if done:
            self.candidate_seconds = (time.monotonic() - began) / done
        gain = 1 - (state.seconds or 0.0) / before if before else 0.0
        state.expect(gain)
        if gain:
            self._share(state)
        self._tell(state)

    def _judge(self, engine: Engine, state: TaskState, candidate: Built, incumbent: Path | None) -> None:
        """Measure one candidate, record it, and make it the best one where it is."""
        task = state.use.task
        result = (
            engine.measure(task, candidate.library, incumbent)
            if candidate.library is not None
            else Measured([], [], candidate.error)
        )
        record = _record(task, candidate.choice, result)
        self.file.define(task.key, task.shape_key, task.to_json())
        self.file.add(record)
        state.note(record)
        self.measured += 1
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
        searched = state.measured > 1
        first = searched and state.use.task.key not in self.seen
        if searched:
            self.seen.add(state.use.task.key)
        self.on_progress(
            Progress(
                elapsed=time.monotonic() - self.started,
                budget=self.budget,
                tasks=len(self.states),
                started=sum(s.started for s in self.states),
                measured=self.measured,
                task=state,
                first=first,
                default_seconds=default,
                seconds=best,
            )
        )


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


@dataclass(frozen=True)
class Replay:
    """One record measured again: the task, its choice and the default, seconds of each, or the error."""

    task: Task
    layers: list[str]
    record: Record
    default: Choice
    measured: Measured


def replay(
    int_model: onnx.ModelProto,
    folder: Path,
    name: str,
    *,
    target: str | Target = "host",
    threads: int | None = None,
) -> Replay:
    """Build, check and time the best record of the task whose key begins with `name`, in turn with the
    task's default.

    Raises RecordsError where the model has no such task or the folder no record of it, and what `tune`
    raises.
    """
    threads = threads or available_threads()
    device = complete_target(get(target))
    require_extra()
    check_device(device, threads)
    plan = plan_model(int_model)
    uses = device_tasks(plan, device, threads)
    chosen = [use for use in uses if use.task.key.startswith(name)]
    if len(chosen) != 1 or not name:
        keys = ", ".join(use.task.key for use in uses[:5])
        raise RecordsError(
            "the model has no such task" if not chosen else "several tasks begin like this",
            received=name,
            valid=f"{keys}{', ...' if len(uses) > 5 else ''}",
            next_command="aqd-deploy tune MODEL.onnx --dry-run",
        )
    use = chosen[0]
    with RecordsFile(folder, Header.here(device), device) as file:
        record = file.records.best().get(use.task.key)
    choices = conv_choices(use.task.spec, use.task.isa, use.task.threads)
    if record is None or record.choice not in choices:
        raise RecordsError("there is no record of this task", received=f"{use.task.key} in {folder}",
                           next_command="aqd-deploy tune MODEL.onnx --records DIR")  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="aqd-tune-") as scratch, Engine(device) as engine:
        operands = Path(scratch) / use.task.key
        layer_operands(plan, use.operations[0]).save(operands)
        tuned, default = engine.build(
            [Job(use.task, choice, operands) for choice in (record.choice, choices[0])]
        )
        if tuned.library is None:
            measured = Measured([], [], tuned.error)
        else:
            measured = engine.measure(use.task, tuned.library, default.library)
    return Replay(use.task, use.layers, record, choices[0], measured)
