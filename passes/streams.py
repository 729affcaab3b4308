"""Values that go on as integers: Eq. 6 for a single value, Eq. 7-8 for the sum of two."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from aqd_deploy.integer.dialect import INT32_MAX
from aqd_deploy.integer.fixedpoint import MultiplyShift, solve_scale
from aqd_deploy.integer.ranges import Interval
from aqd_deploy.integer.rational import ChannelForm
from aqd_deploy.passes.numerics import EXACT, POWER_OF_TWO

STREAM_LIMIT = 1 << 28
"""A stream's integers stay within this, so that a later sum and its requantization have room."""

COARSE_BELOW = 1 << 20
"""A sum whose integers would all stay below this takes a finer scale, ..."""

FINE_TARGET = 1 << 24
"""... the finest power of two that keeps them within this."""


@dataclass(frozen=True)
class StreamConstants:
    """One multiply-shift per channel, the form of its result (β = 0, α > 0), its interval and rounding error.

    `error` [C] bounds |result − exact value| in units of the result's scale, from this operation alone; `gain` [C] is the
    factor by which an error of the operand, in its own units, arrives.
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

    @property
    def is_identity(self) -> bool:
        """Whether nothing happens at all."""
        return self.is_bias and not any(m.b for m in self.constants)


def _image(constants: MultiplyShift, lo: int, hi: int) -> tuple[int, int]:
    ends = (constants(lo), constants(hi))
    return min(ends), max(ends)


def _constant_scale(beta: Fraction) -> ChannelForm:
    """A scale for a channel that is the constant β: 15 bits of it, or 1 for zero."""
    return ChannelForm(abs(beta) / (1 << 15)) if beta else ChannelForm(Fraction(1))


def _upright(form: ChannelForm, doublings: int = 0) -> ChannelForm:
    """|α|·2^doublings with β = 0."""
    return ChannelForm(abs(form.a) * Fraction(2) ** doublings, v=form.v)


def _span(real: ChannelForm, lo: int, hi: int) -> Fraction:
    """Largest |η + β/α| over the range; 0 for a channel that is constant."""
    if real.a == 0 or (lo == 0 and hi == 0):
        return Fraction(0)
    offset = real.b0 / real.a
    return max(abs(int(lo) + offset), abs(int(hi) + offset))


def _halvings(span: Fraction) -> int:
    """The largest k ≥ 0 with span·2^k ≤ 2^24, at most 24."""
    return min(max((FINE_TARGET * span.denominator // span.numerator).bit_length() - 1, 0), 24) if span else 0


def _doublings(span: Fraction, limit: int) -> int:
    """The smallest j ≥ 0 with span / 2^j ≤ limit."""
    whole = -(-span.numerator // span.denominator)
    return max((max(whole - 1, 0) // limit).bit_length(), 0)


def settle(forms: list[ChannelForm], interval: Interval, numerics: str) -> StreamConstants:
    """Eq. 6 for each channel: η + s with s = round(β/α), at the scale α.

    1. α > 0: c = 1, d = 0, B = s.
    2. α < 0 (γ < 0): c = −1, at the scale |α|.
    3. α = 0 (γ = 0): the constant round(β/α'), at a scale of its own.
    4. s or the sum would leave ±2^30 (tiny γ): the scale is doubled until it stays within ±2^28; c = ±1, d > 0.
    5. Exact numerics, the channel stays below 2^20 and β isn't a whole number of α: the scale is halved while the
       integers stay within 2^24; c = ±2^k, so that rounding s costs nothing that matters at 2 bits either.
    """
    reals = [form.rationalised() for form in forms]
    spans = [_span(real, lo, hi) for real, lo, hi in zip(reals, interval.lo, interval.hi, strict=True)]
    constants, out, low, high, errors, gains = [], [], [], [], [], []
    bounds_of = zip(interval.lo.tolist(), interval.hi.tolist(), strict=True)
    for form, real, span, (lo, hi) in zip(forms, reals, spans, bounds_of, strict=True):
        if not span:
            scale, ratio = _constant_scale(real.b0), Fraction(0)
        else:
            doublings = _doublings(span, STREAM_LIMIT) if span > INT32_MAX // 2 else 0
            whole = not real.b0 or (real.b0 / real.a).denominator == 1
            if numerics == EXACT and span < COARSE_BELOW and not whole:
                doublings = -_halvings(span)
            scale = _upright(form, doublings)
            ratio = (1 if real.a > 0 else -1) / Fraction(2) ** doublings
        solution = solve_scale(ratio, real.b0 / scale.alpha(), lo, hi)
        first, last = _image(solution.constants, lo, hi)
        constants.append(solution.constants)
        out.append(scale)
        low.append(first)
        high.append(last)
        errors.append(_upper(solution.error))
        gains.append(float(abs(ratio)))
    bounds = Interval(np.array(low, dtype=np.int64), np.array(high, dtype=np.int64))
    return StreamConstants(constants, out, bounds, np.array(errors), np.array(gains))


def _upper(value: Fraction) -> float:
    """A float that is not below the rational."""
    rounded = float(value)
    return rounded if Fraction(rounded) >= value else float(np.nextafter(rounded, np.inf))


def _common_scale(
    first: tuple[ChannelForm, int, int], second: tuple[ChannelForm, int, int], numerics: str
) -> ChannelForm:
    """The scale of a sum (Eq. 7): the smaller of the two, times a power of two where the integers ask for it.

    1. Both operands vary: the smaller |α|. 2. One is constant (γ = 0): the other's. 3. Both are: a scale of the constant.
    4. The sum would leave ±2^28 (tiny γ): doubled until it doesn't.
    5. Exact numerics, the sum stays below 2^20: halved while it stays within 2^24, so that rounding to it is negligible.
    """
    varying, reach, offset = [], Fraction(0), Fraction(0)
    for form, lo, hi in (first, second):
        real = form.rationalised()
        reach += max(abs(lo * real.a + real.b0), abs(hi * real.a + real.b0))
        offset += real.b0
        if real.a != 0 and (lo, hi) != (0, 0):
            varying.append((abs(real.a), form))
    if not varying:
        return _constant_scale(offset)
    alpha, form = min(varying, key=lambda pair: pair[0])
    span = reach / alpha
    if span > STREAM_LIMIT:
        return _upright(form, _doublings(span, STREAM_LIMIT))
    if numerics == EXACT and 0 < span < COARSE_BELOW:
        return _upright(form, -_halvings(span))
    return _upright(form)


def skip_add(
    forms: tuple[list[ChannelForm], list[ChannelForm]], intervals: tuple[Interval, Interval], numerics: str
) -> tuple[StreamConstants, StreamConstants, Interval]:
    """Eq. 7-8 for every channel: both operands' multiply-shifts to the common scale, and the interval of the sum."""
    sides: tuple[list, list] = ([], [])
    scales: list[ChannelForm] = []
    for channel in range(len(forms[0])):
        operands = []
        for side in (0, 1):
            lo, hi = int(intervals[side].lo[channel]), int(intervals[side].hi[channel])
            operands.append((forms[side][channel], lo, hi))
        scale = _common_scale(operands[0], operands[1], numerics)
        unit = scale.alpha()
        scales.append(scale)
        for side, (form, lo, hi) in enumerate(operands):
            real = form.rationalised()
            ratio = Fraction(0) if (lo, hi) == (0, 0) else real.a / unit
            if real.a and form.v == scale.v:
                ratio = form.a / scale.a if ratio else ratio
            solution = solve_scale(ratio, real.b0 / unit, lo, hi, power_of_two=numerics == POWER_OF_TWO)
            sides[side].append((solution, _image(solution.constants, lo, hi), float(abs(ratio))))
    result = []
    for column in sides:
        ends = np.array([image for _, image, _ in column], dtype=np.int64)
        result.append(
            StreamConstants(
                [solution.constants for solution, _, _ in column],
                scales,
                Interval(ends[:, 0].copy(), ends[:, 1].copy()),
                np.array([_upper(solution.error) for solution, _, _ in column]),
                np.array([gain for _, _, gain in column]),
            )
        )
    total = Interval(
        result[0].interval.lo + result[1].interval.lo, result[0].interval.hi + result[1].interval.hi
    )
    return result[0], result[1], total
