"""The loop keeps its budget, finds the fastest choice, and spends its time where time is lost."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest

from aqd_deploy.errors import BudgetError
from aqd_deploy.kernels.contract.choice import Choice
from aqd_deploy.kernels.contract.spec import ConvSpec, Epilogue
from aqd_deploy.records.file import ACCEPTED, Records
from aqd_deploy.records.task import Task
from aqd_deploy.targets.isa import Isa
from aqd_deploy.tuning import tune
from aqd_deploy.tuning.engine import OUT_OF_TIME, Built, Measured
from aqd_deploy.tuning.network import Use
from aqd_deploy.tuning.progress import TaskState
from aqd_deploy.tuning.space import Space

CHOICES = [Choice.of("blocked", rows=r, tile=t) for r in range(1, 9) for t in range(1, 9)]
BUILD, RUN = 1.0, 0.25


class FakeEngine:
    """Builds in BUILD seconds and runs in RUN, of a clock of its own; the fastest choice is rows=tile=6."""

    workers = 2

    def __init__(self, parallel=1):
        self.parallel = parallel
        self.now = 100.0
        self.broken = set()

    def build(self, jobs, deadline):
        results = []
        for job in jobs:
            self.now += min(BUILD, max(deadline - self.now, 0))
            late = self.now >= deadline
            path = SimpleNamespace(choice=job.choice, task=job.task, parent="nowhere")
            results.append(Built(job.choice, None, OUT_OF_TIME) if late else Built(job.choice, path))
        return results

    def measure(self, trials):
        self.now += RUN * bool(trials)
        assert len(trials) <= self.parallel
        return [self.result(trial.candidate, trial.incumbent) for trial in trials]

    def result(self, candidate, incumbent):
        if candidate.choice in self.broken:
            return Measured([], [], "output 0: 1 of 9 integers differ")
        return Measured([seconds(candidate)], [] if incumbent is None else [seconds(incumbent)])


def seconds(library):
    choice = library.choice
    scale = library.task.spec.height
    return scale * (1 + (choice["rows"] - 6) ** 2 + (choice["tile"] - 6) ** 2)


class FakeFile:
    """Keeps records in memory."""

    def __init__(self):
        self.records = Records()

    def define(self, *_):
        pass

    def add(self, record):
        self.records.candidates.append(record)


@pytest.fixture
def tuner(monkeypatch, tmp_path):
    """A function that tunes tasks of these heights for a budget; returns the engine, states and records."""

    def call(heights, budget, broken=(), parallel=1):
        engine, file = FakeEngine(parallel), FakeFile()
        engine.broken = set(broken)
        monkeypatch.setattr(tune, "time", SimpleNamespace(monotonic=lambda: engine.now))
        states = [
            TaskState(
                Use(Task(ConvSpec(h, 8, 16, 32, (3, 3)), Epilogue(), Isa.PORTABLE, 1), [None]),
                Space(CHOICES),
                CHOICES[0],
            )
            for h in heights
        ]
        loop = tune._Tuner(None, states, file, tmp_path, engine.now, budget, lambda _: None)
        monkeypatch.setattr(loop, "_folder", lambda state: tmp_path)
        loop.run(engine)
        return engine, states, file.records

    return call


@pytest.mark.parametrize("parallel", [1, 3])
@pytest.mark.parametrize("budget", [10, 33, 60, 61.3])
def test_the_budget_is_kept(tuner, budget, parallel):
    engine, _, records = tuner([10, 10, 10], budget, parallel=parallel)
    assert budget / 2 < engine.now - 100 <= budget + RUN
    assert records.candidates


@pytest.mark.parametrize("parallel", [1, 3, 8])
def test_the_fastest_choice_is_found_and_every_choice_tried_once(tuner, parallel):
    _, (state,), records = tuner([10], 1000, parallel=parallel)
    assert state.best == Choice.of("blocked", rows=6, tile=6)
    assert state.space.exhausted and len(records.candidates) == len(CHOICES)
    assert state.seconds == pytest.approx(10)


def test_candidates_measured_together_are_judged_together(tuner):
    """Both may beat the incumbent; the time of the task is that of the better one, counted once."""
    _, _, records = tuner([10], 1000, parallel=8)
    accepted = [record for record in records.candidates if record.state == ACCEPTED]
    assert [record.seconds for record in accepted] == sorted((r.seconds for r in accepted), reverse=True)
    assert all(b.best_seconds == a.seconds for a, b in itertools.pairwise(accepted))


def test_time_goes_to_where_it_is_lost(tuner):
    _, (large, small), _ = tuner([1000, 8], 40)
    assert large.measured > 3 * small.measured
    assert small.started


def test_choices_that_return_wrong_integers_are_never_the_best(tuner):
    broken = [CHOICES[0], Choice.of("blocked", rows=6, tile=6)]
    _, (state,), records = tuner([10], 1000, broken)
    assert {record.choice for record in records.candidates if record.state != ACCEPTED} >= set(broken)
    assert state.best not in broken and state.rejected == 2


def test_no_measurement_fits(tuner):
    with pytest.raises(BudgetError):
        tuner([10], 0.5)
