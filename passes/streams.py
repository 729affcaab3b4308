"""Values that go on as integers: Eq. 6 for a single value, Eq. 7-8 for the sum of two."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from aqd_deploy.integer.fixedpoint import MultiplyShift, ScaleSolution, solve_scale
from aqd_deploy.integer.ranges import Interval
from aqd_deploy.integer.rational import ChannelForm
from aqd_deploy.passes.numerics import EXACT, POWER_OF_TWO

STREAM_LIMIT = 1 << 29
"""A stream's integers stay within this, so that a later sum and its requantization have room."""

OVERFLOW_ABOVE = 1 << 30
"""A single value that would pass this takes a coarser scale."""

COARSE_BELOW = 1 << 23
"""A sum whose integers would all stay below this takes a finer scale, ..."""

FINE_TARGET = 1 << 26
"""... the finest power of two that keeps them within this."""


@dataclass(frozen=True)
class StreamConstants:
    """One multiply-shift per channel, the form of its result (β = 0, α > 0), its interval and rounding error.

    `error` [C] bounds |result − exact value| in units of the result's scale, from this operation alone;
    `gain` [C] is the factor by which an error of the operand, in its own units, arrives.
    """

    constants: list[MultiplyShift]
    forms: list[ChannelForm]
    interval: Interval
    error: np.ndarray
    gain: np.ndarray

    @property
    def is_bias(self) -> bool:
        """Whether every channel only adds an integer: Eq. 6."""
        return all(m.c == 1 and m.d == 0 for m in self.constants)

    def reasons(self) -> str:
        """Why channels are more than a bias (Eq. 6), with their number; "" where none is."""
        kinds = {
            "γ < 0": sum(m.c < 0 for m in self.constants),
            "constant": sum(m.c == 0 for m in self.constants),
            "coarser scale": sum(m.d > 0 for m in self.constants),
            "finer scale": sum(abs(m.c) > 1 and m.d == 0 for m in self.constants),
        }
        return ", ".join(f"{kind} in {count} channels" for kind, count in kinds.items() if count)

    @property
    def is_identity(self) -> bool:
        """Whether nothing happens at all."""
        return self.is_bias and not any(m.b for m in self.constants)


def _constant_scale(beta: Fraction) -> ChannelForm:
    """A scale for a channel that is the constant β: 15 bits of it, or 1 for zero."""
    return ChannelForm(abs(beta) / (1 << 15)) if beta else ChannelForm(Fraction(1))


def _upright(form: ChannelForm, doublings: int = 0) -> ChannelForm:
    """|α|·2^doublings with β = 0."""
    return ChannelForm(abs(form.a) * _power(doublings), v=form.v)


def _power(exponent: int) -> Fraction:
    return Fraction(1 << exponent) if exponent >= 0 else Fraction(1, 1 << -exponent)


@dataclass(frozen=True)
class _Operand:
    """One channel of a value: its form, the same with a rational scale, and its range."""

    form: ChannelForm
    real: ChannelForm
    lo: int
    hi: int

    @property
    def constant(self) -> bool:
        """γ = 0, or an integer that is always 0."""
        return self.real.a == 0 or (self.lo == 0 and self.hi == 0)

    def reach(self) -> Fraction:
        """The largest absolute value."""
        ends = (self.lo * self.real.a + self.real.b0, self.hi * self.real.a + self.real.b0)
        return max(abs(ends[0]), abs(ends[1]))


def _operands(forms: list[ChannelForm], interval: Interval) -> list[_Operand]:
    bounds = zip(forms, interval.lo.tolist(), interval.hi.tolist(), strict=True)
    return [_Operand(form, form.rationalised(), lo, hi) for form, lo, hi in bounds]


def _halvings(span: Fraction) -> int:
    """The largest k ≥ 0 with span·2^k ≤ 2^26, at most 26."""
    return min(max((FINE_TARGET * span.denominator // span.numerator).bit_length() - 1, 0), 26)


def _doublings(span: Fraction, limit: int) -> int:
    """The smallest j ≥ 0 with span / 2^j ≤ limit."""
    whole = -(-span.numerator // span.denominator)
    return (max(whole - 1, 0) // limit).bit_length()


class _Channels:
    """Collects one solution per channel."""

    def __init__(self) -> None:
        self.solutions: list[ScaleSolution] = []
        self.images: list[tuple[int, int]] = []
        self.gains: list[float] = []

    def add(self, ratio: Fraction, offset: Fraction, operand: _Operand, power_of_two: bool = False) -> None:
        """Solves η·ratio + offset over the operand's range."""
        solution = solve_scale(ratio, offset, operand.lo, operand.hi, power_of_two=power_of_two)
        ends = (solution.constants(operand.lo), solution.constants(operand.hi))
        self.solutions.append(solution)
        self.images.append((min(ends), max(ends)))
        self.gains.append(abs(ratio.numerator) / ratio.denominator)

    def finish(self, scales: list[ChannelForm]) -> StreamConstants:
        """The constants of all channels."""
        ends = np.array(self.images, dtype=np.int64)
        return StreamConstants(
            [solution.constants for solution in self.solutions],
            scales,
            Interval(ends[:, 0].copy(), ends[:, 1].copy()),
            np.array([solution.error for solution in self.solutions]),
            np.array(self.gains),
        )


def settle(forms: list[ChannelForm], interval: Interval, numerics: str, room: int = 1) -> StreamConstants:
    """Eq. 6 for each channel: η + s with s = round(β/α), at the scale α; so small that `room` of them added
    up are as large as one else may be.

    1. α > 0: c = 1, d = 0, B = s.
    2. α < 0 (γ < 0): c = −1, at the scale |α|.
    3. α = 0 (γ = 0): the constant round(β/α'), at a scale of its own.
    4. s or the sum would leave ±2^30 (tiny γ): the scale is doubled until it stays within ±2^29; c = ±1, d
       > 0.
    5. Exact numerics, the channel stays below 2^23 and β isn't a whole number of α: the scale is halved
       while the integers stay within 2^26; c = ±2^k, so that rounding s costs nothing that matters at 2
       bits either.
    """
    channels, scales = _Channels(), []
    for operand in _operands(forms, interval):
        real = operand.real
        if operand.constant:
            scale = _constant_scale(real.b0)
            channels.add(Fraction(0), real.b0 / scale.a, operand)
        else:
            doublings = _settled_doublings(operand, numerics, room)
            scale = _upright(operand.form, doublings)
            sign = 1 if real.a > 0 else -1
            channels.add(_power(-doublings) * sign, real.b0 / (abs(real.a) * _power(doublings)), operand)
        scales.append(scale)
    return channels.finish(scales)


def settle_blocks(
    forms: list[ChannelForm], interval: Interval, numerics: str, blocks: list[list[int]]
) -> StreamConstants:
    """`settle` with one scale for all channels of a block: the coarsest that one of them needs.

    Raises ArithmeticError where the channels that vary have scales of different size.
    """
    operands = _operands(forms, interval)
    scale_of: dict[int, ChannelForm] = {}
    for block in blocks:
        varying = [operands[i] for i in block if not operands[i].constant]
        if len({abs(operand.real.a) for operand in varying}) > 1:
            raise ArithmeticError("channels of different scales become one")
        if varying:
            doublings = max(_settled_doublings(operand, numerics) for operand in varying)
            scale = _upright(varying[0].form, doublings)
        else:
            scale = max((_constant_scale(operands[i].real.b0) for i in block), key=lambda form: form.a)
        scale_of |= dict.fromkeys(block, scale)
    channels = _Channels()
    for index, operand in enumerate(operands):
        alpha = scale_of[index].alpha()
        ratio = Fraction(0) if operand.constant else operand.real.a / alpha
        channels.add(ratio, operand.real.b0 / alpha, operand)
    return channels.finish([scale_of[index] for index in range(len(operands))])


def _settled_doublings(operand: _Operand, numerics: str, room: int = 1) -> int:
    """Cases 4 and 5 of settle, as the power of two on the scale."""
    span = operand.reach() / abs(operand.real.a) * room
    if span > OVERFLOW_ABOVE:
        return _doublings(span, STREAM_LIMIT)
    offset = operand.real.b0 / operand.real.a if operand.real.b0 else Fraction(0)
    if numerics == EXACT and span < COARSE_BELOW and offset.denominator != 1:
        return -_halvings(span)
    return 0


def _common_scale(first: _Operand, second: _Operand, numerics: str) -> tuple[ChannelForm, Fraction]:
    """The scale of a sum (Eq. 7): the smaller of the two, times a power of two where the integers ask for it.

    1. Both operands vary: the smaller |α|. 2. One is constant (γ = 0): the other's. 3. Both are: a scale of
       the constant.
    4. The sum would leave ±2^29 (tiny γ): doubled until it doesn't.
    5. Exact numerics, the sum stays below 2^23: halved while it stays within 2^26, so that rounding to it
       is negligible.
    """
    varying = [operand for operand in (first, second) if not operand.constant]
    if not varying:
        scale = _constant_scale(first.real.b0 + second.real.b0)
        return scale, scale.a
    finer = min(varying, key=lambda operand: abs(operand.real.a))
    alpha = abs(finer.real.a)
    span = (first.reach() + second.reach()) / alpha
    doublings = 0
    if span > STREAM_LIMIT:
        doublings = _doublings(span, STREAM_LIMIT)
    elif numerics == EXACT and 0 < span < COARSE_BELOW:
        doublings = -_halvings(span)
    return _upright(finer.form, doublings), alpha * _power(doublings)


def skip_add(
    forms: tuple[list[ChannelForm], list[ChannelForm]], intervals: tuple[Interval, Interval], numerics: str
) -> tuple[StreamConstants, StreamConstants, Interval]:
    """Eq. 7-8 for every channel: both operands' multiply-shifts to the common scale, and the interval of
    the sum.
    """
    sides = (_operands(forms[0], intervals[0]), _operands(forms[1], intervals[1]))
    results = (_Channels(), _Channels())
    scales = []
    for pair in zip(*sides, strict=True):
        scale, alpha = _common_scale(*pair, numerics)
        scales.append(scale)
        for operand, channels in zip(pair, results, strict=True):
            if operand.constant:
                ratio = Fraction(0)
            elif operand.form.v == scale.v:
                ratio = operand.form.a / scale.a
            else:
                ratio = operand.real.a / alpha
            offset = operand.real.b0 / alpha if operand.real.b0 else operand.real.b0
            channels.add(ratio, offset, operand, numerics == POWER_OF_TWO)
    left, right = results[0].finish(scales), results[1].finish(scales)
    total = Interval(left.interval.lo + right.interval.lo, left.interval.hi + right.interval.hi)
    return left, right, total
