"""What a run of hours tells whoever waits for it, and when it has to end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from aqd_deploy.quantization.state import State

T = TypeVar("T")


@dataclass(frozen=True)
class Progress:
    """How far a stage is: `done` of `total` items, seconds since the run began, and what the stage will take
    yet, None before its first item.
    """

    stage: str
    done: int
    total: int
    elapsed: float
    left: float | None


class Run:
    """One quantization while it runs: `listener` hears of every item; `budget` are seconds for all of it;
    `state` keeps what is finished for a run that comes after this one. `stages` are the seconds of each.
    """

    def __init__(
        self,
        listener: Callable[[Progress], None] | None = None,
        budget: float | None = None,
        state: State | None = None,
    ) -> None:
        self._listener = listener
        self._started = time.monotonic()
        self._budget = budget
        self.state = state or State()
        self.warnings: list[str] = []
        self.stages: dict[str, float] = {}

    @property
    def elapsed(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self._started

    @property
    def time_is_up(self) -> bool:
        """Whether the budget is used up: what only makes a file better is then left out."""
        return self._budget is not None and self.elapsed >= self._budget

    def warn(self, sentence: str) -> None:
        """A sentence for the report."""
        if sentence not in self.warnings:
            self.warnings.append(sentence)

    def steps(self, stage: str, items: Sequence[T]) -> Iterator[T]:
        """The items one after the other, with progress."""
        yield from self.counted(stage, iter(items), len(items))

    def counted(self, stage: str, items: Iterator[T], total: int) -> Iterator[T]:
        """`total` items that are made as they are asked for, with progress."""
        began = self.elapsed
        self._tell(stage, 0, total, None)
        for done, item in enumerate(items, 1):
            yield item
            self._tell(stage, done, total, (self.elapsed - began) / done * (total - done))
        self.stages[stage] = self.stages.get(stage, 0.0) + self.elapsed - began

    def _tell(self, stage: str, done: int, total: int, left: float | None) -> None:
        if self._listener is not None:
            self._listener(Progress(stage, done, total, self.elapsed, left))
