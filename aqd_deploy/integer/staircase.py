"""The exact staircase of a quantizer over integers: the integers T_k where round-half-even reaches level k.

Level(η) = clip(round_half_even((η·a·r + b0 + b1·r) / step) + zero_point, lo, hi). For a > 0 it is a
staircase that reaches level k at η ≥ T_k. A negative `a` is reflected: the staircase is one over −η.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from aqd_deploy.integer.rational import ChannelForm, floor_surd, round_half_even


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


def exact_thresholds(form: ChannelForm, quantizer: Quantizer, levels: Sequence[int]) -> list[int]:
    """`exact_threshold` of several levels. Behind a rational √v they are whole numbers over one denominator."""
    root = form.v.numerator * form.v.denominator
    whole = math.isqrt(root)
    if whole * whole != root:
        return [exact_threshold(form, quantizer, level) for level in levels]
    sigma = Fraction(whole, form.v.denominator)
    half_step, origin = quantizer.step * sigma / (2 * form.a), -(form.b0 * sigma + form.b1) / form.a
    common = half_step.denominator * origin.denominator
    start, stride = origin.numerator * half_step.denominator, half_step.numerator * origin.denominator
    edges = ((m, start + (2 * m - 1) * stride) for m in (level - quantizer.zero_point for level in levels))
    return [edge // common + 1 if m % 2 else -(-edge // common) for m, edge in edges]


def _upright(form: ChannelForm) -> ChannelForm:
    """The form over −η where the scale is negative."""
    return ChannelForm(-form.a, form.b0, form.b1, form.v) if form.a < 0 else form


_FARTHEST_BITS = 256


def _float(value: Fraction) -> float:
    """The nearest float64; NaN for what isn't zero or well within 2^±256."""
    numerator, denominator = value.numerator, value.denominator
    bits = numerator.bit_length() - denominator.bit_length()
    return numerator / denominator if not numerator or abs(bits) < _FARTHEST_BITS else math.nan


@dataclass(frozen=True)
class _Columns:
    """The forms' numbers as float64 [C], each the nearest one; NaN where it is far from 1."""

    a: np.ndarray
    b0: np.ndarray
    b1: np.ndarray
    v: np.ndarray

    @classmethod
    def of(cls, forms: Sequence[ChannelForm]) -> _Columns:
        rows = [(_float(f.a), _float(f.b0), _float(f.b1), _float(f.v)) for f in forms]
        a, b0, b1, v = np.array(rows, dtype=np.float64).reshape(-1, 4).T
        return cls(np.abs(a), b0, b1, v)


def thresholds(
    forms: Sequence[ChannelForm], quantizer: Quantizer, lo: np.ndarray, hi: np.ndarray
) -> np.ndarray:
    """T_k [C, steps], int64, for k = quantizer.lo+1 .. quantizer.hi, clamped to [lo, hi+1].

    η runs over [lo, hi], int64 [C] within ±2^52, upright: over −η where a is negative. T_k = lo means the
    level is reached everywhere, hi+1 nowhere.
    """
    return _thresholds(forms, _Columns.of(forms), quantizer, lo, hi)


def _thresholds(
    forms: Sequence[ChannelForm], columns: _Columns, quantizer: Quantizer, lo: np.ndarray, hi: np.ndarray
) -> np.ndarray:
    """Nearly all thresholds are decided by float64 with a bound of its error, the others exactly.

    T is ⌊τ⌋ + 1 unless τ = F − S − N is whole, with the terms F = (m − ½)·step·√v/a, S = b0·√v/a and
    N = b1/a. Let u = 2^-53, and count relative errors. Each of the numbers is rounded once, by u; m − ½ is
    exact. √v has half the error of v and its own rounding, 1.5u, so √v/a has 3.5u. Then F has 6.5u, S 5.5u
    and N 3u, and each of the two subtractions adds at most u·(|F| + |S| + |N|). Together that is 8.5u of
    |F| + |S| + |N| and terms in u², less than the 16u taken as `slack`. As numbers lie within 2^±256,
    products within 2^±1000: nothing overflows or is denormal. Float64's rounding is monotone and integers up
    to 2^53 are floats: what compares with an integer as less or greater after τ ± slack is rounded, did so
    before. A NaN compares as neither and leaves its channel to the exact way.
    """
    levels = np.arange(quantizer.lo + 1, quantizer.hi + 1, dtype=np.int64)
    zero = columns.a == 0
    a = np.where(zero, np.nan, columns.a)
    root = np.sqrt(columns.v) / a
    first = (levels - quantizer.zero_point - 0.5) * _float(quantizer.step) * root[:, None]
    second, third = (columns.b0 * root)[:, None], (columns.b1 / a)[:, None]
    tau = first - second - third
    slack = (np.abs(first) + np.abs(second) + np.abs(third)) * 2.0**-49
    lowest, highest, floor = tau - slack, tau + slack, np.floor(tau)
    low, high = lo[:, None], hi[:, None]
    early, late = highest < low, lowest > high
    inside = (lowest > floor) & (highest < floor + 1) & ~early & ~late
    table = np.where(late, high + 1, np.broadcast_to(low, tau.shape))
    table[inside] = floor[inside].astype(np.int64) + 1
    undecided = ~(early | late | inside)
    for channel in np.flatnonzero(undecided.any(axis=1)).tolist():
        mask, form = undecided[channel], forms[channel]
        if zero[channel]:
            level = quantizer.level(form.beta())
            exact = np.where(levels <= level, lo[channel], hi[channel] + 1)
        else:
            found = exact_thresholds(_upright(form), quantizer, levels[mask].tolist())
            bottom, top = int(lo[channel]), int(hi[channel]) + 1
            exact = np.array([min(max(value, bottom), top) for value in found], dtype=np.int64)
        table[channel, mask] = exact
    return np.clip(table, low, high + 1)


_SLOPES = Fraction(1, 1 << 256), Fraction(1 << 256)


def _slopes(forms: Sequence[ChannelForm], columns: _Columns, step: Fraction) -> np.ndarray:
    """|α| / step of every channel; beyond 2^±256, where float64 comes to its end, that instead."""
    ratio = columns.a / _float(step)
    slope = columns.a / np.sqrt(columns.v) / _float(step)
    near = (columns.a == 0) | ((ratio > 2.0**-255) & (ratio < 2.0**255) & np.isfinite(slope))
    for channel in np.flatnonzero(~near).tolist():
        slope[channel] = _far_slope(forms[channel], step)
    return slope


def _far_slope(form: ChannelForm, step: Fraction) -> float:
    lowest, highest = _SLOPES
    squared = (form.a / step) ** 2 / form.v
    bounded = min(max(squared, lowest * lowest), highest * highest)
    return math.sqrt(bounded.numerator / bounded.denominator)


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
    columns = _Columns.of(forms)
    table = _thresholds(forms, columns, quantizer, low, high)
    return Staircases(quantizer, sign, low, high, table, _slopes(forms, columns, quantizer.step))
