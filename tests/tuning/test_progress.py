"""What a task is expected to gain, and when a candidate is better."""

from __future__ import annotations

import time

import pytest

from aqd_deploy.errors import BudgetError
from aqd_deploy.kernels.contract.choice import Choice
from aqd_deploy.kernels.contract.spec import ConvSpec, Epilogue
from aqd_deploy.records.file import ACCEPTED, REJECTED, SLOWER, Record
from aqd_deploy.records.task import Task
from aqd_deploy.targets.isa import Isa
from aqd_deploy.tuning.engine import Measured
from aqd_deploy.tuning.network import Use
from aqd_deploy.tuning.progress import TaskState, network_seconds
from aqd_deploy.tuning.space import Space
from aqd_deploy.tuning.tune import _record, require_time

TASK = Task(ConvSpec(8, 8, 16, 32, (3, 3)), Epilogue(), Isa.PORTABLE, 1)
CHOICES = [Choice.of("blocked", rows=r) for r in (8, 4, 2)]


def state(layers=1):
    return TaskState(Use(TASK, [None] * layers), Space(CHOICES), CHOICES[0])


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (Measured([2e-3, 1e-3], []), ACCEPTED),
        (Measured([1.0, 1.1, 1.2], [1.2, 1.3, 1.4]), ACCEPTED),
        (Measured([1.0, 1.5, 1.6], [1.2, 1.3, 1.4]), SLOWER),
        (Measured([1.195, 1.2, 1.2], [1.2, 1.3, 1.4]), SLOWER),
        (Measured([1.3, 1.3], [1.2, 1.4]), SLOWER),
        (Measured([], [], "output 0: 1 of 9 integers differ"), REJECTED),
    ],
)
def test_better_is_by_minimum_and_median(result, expected):
    record = _record(TASK, CHOICES[0], result)
    assert record.state == expected
    assert (record.seconds is None) == (expected == REJECTED)


def test_the_time_of_a_task_follows_the_ratios_of_its_accepted_records():
    tuned = state(layers=3)
    tuned.replay(
        [
            Record(TASK.key, CHOICES[0], ACCEPTED, 4.0),
            Record(TASK.key, CHOICES[1], ACCEPTED, 3.0, 6.0),
            Record(TASK.key, CHOICES[2], SLOWER, 9.0, 6.0),
            Record(TASK.key, Choice.of("blocked", rows=77), ACCEPTED, 1e-9, 1.0),
            Record("another task", CHOICES[2], ACCEPTED, 1e-9),
        ]
    )
    assert (tuned.default_seconds, tuned.seconds, tuned.best) == (4.0, 2.0, CHOICES[1])
    assert network_seconds([tuned]) == (12.0, 6.0)
    assert tuned.space.exhausted and tuned.priority == 0
    assert network_seconds([tuned, state()]) == (None, None)


def test_a_task_that_gains_nothing_is_asked_less_and_less():
    tuned = state()
    tuned.replay([Record(TASK.key, CHOICES[0], ACCEPTED, 1.0)])
    priorities = []
    for _ in range(4):
        priorities.append(tuned.priority)
        tuned.expect(0.0)
    assert priorities == sorted(priorities, reverse=True) and priorities[-1] > 0
    tuned.expect(0.5)
    assert tuned.priority > priorities[-1]


def test_a_spent_budget_is_told():
    with pytest.raises(BudgetError, match="too small for one measurement: starting"):
        require_time("starting", time.monotonic() - 5, 4.0)
    require_time("starting", time.monotonic(), 60.0)
