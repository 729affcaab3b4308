"""How far a tuning is: the state of its tasks, and the time of the network that follows from it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from aqd_deploy.kernels.contract.choice import Choice
from aqd_deploy.records.file import ACCEPTED, REJECTED, Record
from aqd_deploy.tuning.failures import Fault, fault_of
from aqd_deploy.tuning.network import Use
from aqd_deploy.tuning.space import Space

# The gain that a task which has not been searched is expected to have, and what is left of an expectation
# after each batch that brings nothing.
FIRST_EXPECTATION, DECAY = 0.15, 0.5

LEAST_GAIN = 0.01
"""Faster by less than this is noise."""


class Standing:
    """How a task stands after its records: the best choice, seconds of one call of the default and of the
    best, candidates that were measured, that were the best at their time, that are not exact.
    """

    best: Choice
    default_seconds: float | None
    seconds: float | None
    measured: int
    accepted: int
    rejected: int

    def note(self, record: Record) -> None:
        """Take over one measurement. Accepted choices count as an improvement of the one before."""
        self.measured += 1
        self.rejected += record.state == REJECTED
        if record.state != ACCEPTED or record.seconds is None:
            return
        if self.seconds is None:
            self.seconds = self.default_seconds = record.seconds
        elif record.best_seconds:
            self.seconds *= record.seconds / record.best_seconds
        self.accepted += 1
        self.best = record.choice


@dataclass
class TaskState(Standing):
    """One task: its space, its best choice and times.

    `seconds` is the estimated time of the best choice: the default's, times the ratio by which each accepted
    choice beat the one before in turn with it. Ratios hold on a machine whose speed drifts, times do not.
    """

    use: Use
    space: Space
    best: Choice
    default_seconds: float | None = None
    seconds: float | None = None
    expectation: float = FIRST_EXPECTATION
    hints: list[Choice] = field(default_factory=list)
    measured: int = 0
    accepted: int = 0
    rejected: int = 0

    @property
    def started(self) -> bool:
        """Whether the default was measured."""
        return self.seconds is not None

    @property
    def total_seconds(self) -> float:
        """Time of all layers of the task."""
        return (self.seconds or 0.0) * len(self.use.operations)

    @property
    def priority(self) -> float:
        """Seconds of the network that one more batch is expected to save."""
        return 0.0 if self.space.exhausted else self.total_seconds * self.expectation

    def replay(self, records: Iterable[Record]) -> None:
        """Take over what earlier runs measured of this task.

        What failed for no fault of the candidate is tried again, the default first: without it slower choices
        may have been accepted.
        """
        for record in records:
            if record.task == self.use.task.key and record.choice in self.space:
                if record.state == REJECTED and fault_of(record.reason) is not Fault.CANDIDATE:
                    continue
                self.space.tried.add(record.choice)
                self.note(record)
                if record.state != ACCEPTED and self.started:
                    self.expectation *= DECAY**0.125
        default = self.space.choices[0]
        if self.started and default not in self.space.tried:
            self.hints.append(default)

    def expect(self, gain: float) -> None:
        """Adjust the expectation after a batch that saved the fraction `gain`."""
        self.expectation = DECAY * self.expectation + (1 - DECAY) * gain


@dataclass(frozen=True)
class Progress:
    """What to tell a person after each step.

    Times are those of the convolutions of the network in seconds, None until every default is measured.
    `task` is the one that was worked on.
    """

    elapsed: float
    budget: float
    tasks: int
    started: int
    measured: int
    task: TaskState | None
    default_seconds: float | None
    seconds: float | None


def network_seconds(states: list[TaskState]) -> tuple[float | None, float | None]:
    """Seconds of all convolutions with the defaults and with the best choices, None until all are known."""
    if not all(state.started for state in states):
        return None, None
    default = sum((state.default_seconds or 0.0) * len(state.use.operations) for state in states)
    return default, sum(state.total_seconds for state in states)
