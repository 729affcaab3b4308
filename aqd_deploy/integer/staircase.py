"""The exact staircase of a quantizer over integers: the integers T_k where round-half-even reaches level k.

Level(η) = clip(round_half_even((η·a·r + b0 + b1·r) / step) + zero_point, lo, hi). For a > 0 it is a
staircase that reaches level k at η ≥ T_k. A negative `a` is reflected: the staircase is one over −η.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from aqd_deploy.integer.rational import ChannelForm, floor_surd, round_half_even

_FRACTION_BITS = 128
_MASK = (1 << _FRACTION_BITS) - 1
_ROOT_BITS = 320


@dataclass(frozen=True)
class Quantizer:
    """Eq. 2 with its clipping range: level = clip(round_half_even(x / step) + zero_point, lo, hi)."""

    step: Fraction
    lo: int
    hi: int
    zero_point: int = 0

    @property
    def steps(self) -> int:
        """Number of thresholds, hi − lo."""
        return self.hi - self.lo

    def level(self, value: Fraction) -> int:
        """The level of an exactly known real."""
        return min(max(round_half_even(value / self.step) + self.zero_point, self.lo), self.hi)


def exact_threshold(form: ChannelForm, quantizer: Quantizer, level: int) -> int:
    """Smallest η with unclipped level(η) ≥ level, for form.a > 0; decided with exact square roots.

    round_half_even(y) ≥ m is y ≥ m − ½ for even m and y > m − ½ for odd m.
    """
    m = level - quantizer.zero_point
    edge = (Fraction(2 * m - 1, 2)) * quantizer.step
    floor, whole = floor_surd(-form.b1 / form.a, (edge - form.b0) / form.a, form.v)
    return floor if whole and m % 2 == 0 else floor + 1


def thresholds(form: ChannelForm, quantizer: Quantizer, lo: int, hi: int) -> list[int]:
    """T_k for k = quantizer.lo+1 .. quantizer.hi, clamped to [lo, hi+1], for η in [lo, hi] and form.a ≥ 0.

    T_k = lo means the level is reached everywhere, hi+1 nowhere. The thresholds before rounding are t_1 +
    k·δ; they are computed with 128 fractional bits and an error bound, and where that cannot decide,
    exactly.
    """
    q = quantizer
    if form.a == 0:
        level = q.level(form.beta())
        return [lo if k <= level else hi + 1 for k in range(q.lo + 1, q.hi + 1)]
    v = form.v
    root = math.isqrt((v.numerator * v.denominator) << (2 * _ROOT_BITS))
    shift = _ROOT_BITS - _FRACTION_BITS

    def fixed(rational: Fraction) -> int:
        """rational·√v with 128 fractional bits; off by less than 1 + |rational|·2^-192."""
        return rational.numerator * root // ((rational.denominator * v.denominator) << shift)

    per_level, offset = q.step / form.a, (form.b0 + q.step / 2) / form.a
    slope = fixed(per_level)
    base = form.b1 / form.a
    start = -((base.numerator << _FRACTION_BITS) // base.denominator) - fixed(offset)
    error = 2 + (math.floor(max(abs(per_level), abs(offset))) >> shift)
    result = []
    top = hi + 1
    first = q.lo + 1 - q.zero_point
    for m in range(first, first + q.steps):
        position = start + m * slope
        slack = (abs(m) + 2) * error
        fraction = position & _MASK
        if slack < fraction < _MASK - slack:
            threshold = (position >> _FRACTION_BITS) + 1
        else:
            threshold = exact_threshold(form, q, m + q.zero_point)
        result.append(lo if threshold < lo else top if threshold > top else threshold)
    return result


_SLOPES = Fraction(1, 1 << 256), Fraction(1 << 256)


def _slope(form: ChannelForm, step: Fraction) -> float:
    """|α| / step; beyond 2^±256, where float64 comes to its end, that instead."""
    if form.a == 0:
        return 0.0
    ratio, lowest, highest = abs(form.a) / step, *_SLOPES
    if lowest < ratio < highest and lowest < form.v < highest:
        return _float(abs(form.a)) / math.sqrt(form.v) / _float(step)
    squared = ratio * ratio / form.v
    return math.sqrt(_float(min(max(squared, lowest * lowest), highest * highest)))


def _float(value: Fraction) -> float:
    return value.numerator / value.denominator


@dataclass(frozen=True)
class Staircases:
    """The staircases of all channels of one requantization.

    `sign` [C] is −1 where the channel is reflected (γ < 0): the staircase is one over sign·η, which runs over
    [lo[c], hi[c]]. `thresholds` is int64 [C, steps], non-decreasing, clamped to [lo, hi+1]. `slope` [C] is
    |α| / step as float64: where a search starts, never part of a proof.
    """

    quantizer: Quantizer
    sign: np.ndarray
    lo: np.ndarray
    hi: np.ndarray
    thresholds: np.ndarray
    slope: np.ndarray

    @property
    def channels(self) -> int:
        return len(self.sign)

    def levels(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest level [C] that each channel takes over its range."""
        low = self.quantizer.lo + (self.thresholds <= self.lo[:, None]).sum(axis=1)
        high = self.quantizer.lo + (self.thresholds <= self.hi[:, None]).sum(axis=1)
        return low, high


def staircases(forms: list[ChannelForm], quantizer: Quantizer, lo: np.ndarray, hi: np.ndarray) -> Staircases:
    """Exact staircases of all channels; lo, hi are int64 [C], the proven range of η."""
    sign = np.array([-1 if form.a < 0 else 1 for form in forms], dtype=np.int64)
    low = np.where(sign > 0, lo, -hi)
    high = np.where(sign > 0, hi, -lo)
    rows = []
    for form, s, a, b in zip(forms, sign.tolist(), low.tolist(), high.tolist(), strict=True):
        upright = form if s > 0 else ChannelForm(-form.a, form.b0, form.b1, form.v)
        rows.append(thresholds(upright, quantizer, a, b))
    table = np.array(rows, dtype=np.int64).reshape(len(forms), quantizer.steps)
    slope = np.array([_slope(form, quantizer.step) for form in forms])
    return Staircases(quantizer, sign, low, high, table, slope)
