"""The exact staircase of a quantizer over integers: the integers T_k where round-half-even reaches code k.

code(η) = clip(round_half_even((η·a·r + b0 + b1·r) / step) + zero_point, lo, hi). For a > 0 it is a
staircase that reaches code k at η ≥ T_k. A negative `a` is reflected: the staircase is one over −η.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from aqd_deploy.integer.rational import ChannelForm, floor_surd, round_half_even


@dataclass(frozen=True)
class Quantizer:
    """Eq. 2 with its clipping range: code = clip(round_half_even(x / step) + zero_point, lo, hi)."""

    step: Fraction
    lo: int
    hi: int
    zero_point: int = 0

    @property
    def steps(self) -> int:
        """Number of thresholds, hi − lo."""
        return self.hi - self.lo

    def code(self, value: Fraction) -> int:
        """The code of an exactly known real."""
        return min(max(round_half_even(value / self.step) + self.zero_point, self.lo), self.hi)


def exact_threshold(form: ChannelForm, quantizer: Quantizer, code: int) -> int:
    """Smallest η with unclipped code(η) ≥ code, for form.a > 0; decided with exact square roots.

    round_half_even(y) ≥ m is y ≥ m − ½ for even m and y > m − ½ for odd m.
    """
    m = code - quantizer.zero_point
    edge = (Fraction(2 * m - 1, 2)) * quantizer.step
    floor, whole = floor_surd(-form.b1 / form.a, (edge - form.b0) / form.a, form.v)
    return floor if whole and m % 2 == 0 else floor + 1


def exact_thresholds(form: ChannelForm, quantizer: Quantizer, codes: np.ndarray) -> np.ndarray:
    """`exact_threshold` of several codes, int64 or Python's integers, for form.a ≠ 0.

    Behind a rational √v all edges are whole numbers over one denominator. A negative a is reflected.
    """
    a, m = abs(form.a), codes - quantizer.zero_point
    square = form.v.numerator * form.v.denominator
    root = math.isqrt(square)
    if root * root != square:
        upright = ChannelForm(a, form.b0, form.b1, form.v)
        return np.array([exact_threshold(upright, quantizer, k) for k in codes.tolist()], dtype=object)
    sigma = Fraction(root, form.v.denominator)
    unit, origin = quantizer.step * sigma / (2 * a), -(form.b0 * sigma + form.b1) / a
    common = unit.denominator * origin.denominator
    start, stride = origin.numerator * unit.denominator, unit.numerator * origin.denominator
    reach = max(common, abs(start) + abs(stride) * (2 * int(abs(m).max(initial=0)) + 1))
    odd = 2 * m.astype(np.int64 if reach < _INT64 else object) - 1
    edges = start + odd * stride
    return np.where(m % 2 == 0, -(-edges // common), edges // common + 1)


_INT64 = 1 << 62
_FARTHEST_BITS = 256

CACHED = 1 << 14
"""How many thresholds are looked at together: float64 arrays of them stay in the cache."""


def _float(value: Fraction) -> float:
    """The nearest float64; NaN for what isn't zero or well within 2^±256."""
    numerator, denominator = value.numerator, value.denominator
    bits = numerator.bit_length() - denominator.bit_length()
    return numerator / denominator if not numerator or abs(bits) < _FARTHEST_BITS else math.nan


def _columns(forms: Sequence[ChannelForm]) -> np.ndarray:
    """|a|, b0, b1 and v of every form as `_float`, [4, C]."""
    rows = [(_float(f.a), _float(f.b0), _float(f.b1), _float(f.v)) for f in forms]
    columns = np.array(rows, dtype=np.float64).reshape(-1, 4).T.copy()
    columns[0] = np.abs(columns[0])
    return columns


def _thresholds(
    forms: Sequence[ChannelForm],
    columns: np.ndarray,
    quantizer: Quantizer,
    zeros: np.ndarray,
    lo: np.ndarray,
    hi: np.ndarray,
) -> np.ndarray:
    """T_k [C, steps], int64, for k = quantizer.lo+1 .. quantizer.hi, clamped to [lo, hi+1], int64 [C] within
    ±2^52; `zeros` [C] are the zero points. Nearly all are decided by float64 with a bound of its error, the
    others exactly.

    T is ⌊τ⌋ + 1 unless τ = F − S − N is whole, with the terms F = (m − ½)·step·√v/a, S = b0·√v/a and
    N = b1/a. Let u = 2^-53, and count relative errors. Each of the numbers is rounded once, by u; m − ½ is
    exact. √v has half the error of v and its own rounding, 1.5u, so √v/a has 3.5u. Then F has 6.5u, S 5.5u
    and N 3u, and each of the two subtractions adds at most u·(|F| + |S| + |N|). Together that is 8.5u of
    |F| + |S| + |N| and terms in u², less than the 16u taken as `slack`. As numbers lie within 2^±256,
    products within 2^±1000: nothing overflows or is denormal. Rounding to float64 is monotone, and integers
    up to 2^53 are floats: τ ± slack that is less or greater than an integer was so before it was rounded. A
    NaN compares as neither, which leaves its channel to the exact way.
    """
    a, b0, b1, v = columns
    codes = np.arange(quantizer.lo + 1, quantizer.hi + 1, dtype=np.int64)
    a = np.where(a == 0, np.nan, a)
    root = np.sqrt(v) / a
    first = (codes - zeros[:, None] - 0.5) * _float(quantizer.step) * root[:, None]
    second, third = (b0 * root)[:, None], (b1 / a)[:, None]
    tau = first - second - third
    slack = (np.abs(first) + np.abs(second) + np.abs(third)) * 2.0**-49
    lowest, highest, floor = tau - slack, tau + slack, np.floor(tau)
    low, high = lo[:, None], hi[:, None]
    early, late = highest < low, lowest > high
    inside = (lowest > floor) & (highest < floor + 1) & ~early & ~late
    table = np.where(late, high + 1, low)
    table[inside] = floor[inside].astype(np.int64) + 1
    undecided = ~(early | late | inside)
    for channel in np.flatnonzero(undecided.any(axis=1)).tolist():
        mask, form = undecided[channel], forms[channel]
        own = replace(quantizer, zero_point=int(zeros[channel]))
        if form.a == 0:
            reached = codes <= own.code(form.beta())
            table[channel] = np.where(reached, lo[channel], hi[channel] + 1)
        else:
            exact = exact_thresholds(form, own, codes[mask])
            table[channel, mask] = np.clip(exact, int(lo[channel]), int(hi[channel]) + 1)
    return np.clip(table, low, high + 1)


def _slopes(forms: Sequence[ChannelForm], columns: np.ndarray, step: Fraction) -> np.ndarray:
    """|α| / step of every channel; beyond 2^±256, where float64 comes to its end, that instead."""
    a, _, _, v = columns
    unit = _float(step)
    ratio, slope = a / unit, np.where(a == 0, 0.0, a / np.sqrt(v) / unit)
    near = (a == 0) | ((ratio > 2.0**-255) & (ratio < 2.0**255) & np.isfinite(slope))
    for channel in np.flatnonzero(~near).tolist():
        form = forms[channel]
        squared = min(max((form.a / step) ** 2 / form.v, Fraction(1, 1 << 512)), Fraction(1 << 512))
        slope[channel] = math.sqrt(squared.numerator / squared.denominator)
    return slope


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

    def codes(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest code [C] that each channel takes over its range."""
        low = self.quantizer.lo + (self.thresholds <= self.lo[:, None]).sum(axis=1)
        high = self.quantizer.lo + (self.thresholds <= self.hi[:, None]).sum(axis=1)
        return low, high


def staircases(
    forms: list[ChannelForm],
    quantizer: Quantizer,
    lo: np.ndarray,
    hi: np.ndarray,
    zero_points: Sequence[int] | None = None,
) -> Staircases:
    """Exact staircases of all channels; lo, hi are int64 [C], the proven range of η; `zero_points`, where
    there are any, stand for the quantizer's.
    """
    zeros = np.full(len(forms), quantizer.zero_point) if zero_points is None else np.array(zero_points)
    sign = np.array([-1 if form.a < 0 else 1 for form in forms], dtype=np.int64)
    low = np.where(sign > 0, lo, -hi)
    high = np.where(sign > 0, hi, -lo)
    columns = _columns(forms)
    table = np.empty((len(forms), quantizer.steps), dtype=np.int64)
    rows = max(CACHED // max(quantizer.steps, 1), 1)
    for first in range(0, len(forms), rows):
        some = slice(first, first + rows)
        table[some] = _thresholds(
            forms[some], columns[:, some], quantizer, zeros[some], low[some], high[some]
        )
    return Staircases(quantizer, sign, low, high, table, _slopes(forms, columns, quantizer.step))
