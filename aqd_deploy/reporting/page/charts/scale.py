"""Axes of charts: from numbers to places, with ticks at round numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from aqd_deploy.reporting.page.figures import MINUS

_ROUND = (1.0, 2.0, 5.0, 10.0)


def drawable(value: float) -> bool:
    """Whether a positive number can be one that was measured; what nobody can measure would leave no room for
    the others.
    """
    return 1e-9 <= value <= 1e12


@dataclass(frozen=True)
class Scale:
    """`low` lies at `start`, `high` at `end`; a logarithm between them where `log`."""

    low: float
    high: float
    start: float
    end: float
    ticks: Sequence[float]
    log: bool = False

    def at(self, value: float) -> float:
        """The place of a number."""
        low, high = self._bent(self.low), self._bent(self.high)
        share = (self._bent(value) - low) / (high - low)
        return round(self.start + share * (self.end - self.start), 1)

    def _bent(self, value: float) -> float:
        return math.log10(value) if self.log else value


def linear(
    values: Iterable[float], start: float, end: float, *, at_least: float = 0.0, ticks: int = 4
) -> Scale:
    """An axis that ends at ticks around all `values`, at least `at_least` long."""
    found = list(values)
    low, high = min(found), max(found)
    missing = max(at_least - (high - low), 1e-9 - (high - low), 0.0)
    low, high = low - missing / 2, high + missing / 2
    step = _round_up((high - low) / ticks)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return Scale(first * step, last * step, start, end, [index * step for index in range(first, last + 1)])


def logarithmic(values: Iterable[float], start: float, end: float) -> Scale:
    """An axis from a round number to a round number around all positive `values`."""
    found = list(values)
    low, high = _round_down(min(found)), _round_up(max(found))
    if high / low < 10:
        high = 10 * low
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    sparse = high / low > 1000
    ticks = [
        factor * 10.0**exponent
        for exponent in exponents
        for factor in ((1.0,) if sparse else _ROUND[:3])
        if low <= factor * 10.0**exponent * (1 + 1e-9) and factor * 10.0**exponent <= high * (1 + 1e-9)
    ]
    return Scale(low, high, start, end, ticks, log=True)


def tick_text(value: float) -> str:
    """Without what float64 adds."""
    return f"{round(value, 9):g}".replace("-", MINUS)


def _round_up(value: float) -> float:
    power = 10.0 ** math.floor(math.log10(value))
    return power * next(factor for factor in _ROUND if factor * power >= value * (1 - 1e-9))


def _round_down(value: float) -> float:
    power = 10.0 ** math.floor(math.log10(value))
    return power * next(factor for factor in reversed(_ROUND) if factor * power <= value * (1 + 1e-9))
