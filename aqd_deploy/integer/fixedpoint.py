"""Fixed-point constants and their proofs: multiply-shift, requantization, and the scale ratio of a skip-add.

docs/proofs.md says why the intersection of intervals below is a proof.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from aqd_deploy.integer.domain import C_BITS, MAX_SHIFT, PRODUCT_LIMIT
from aqd_deploy.integer.rational import ChannelForm
from aqd_deploy.integer.staircase import Quantizer, Staircases, staircases

_LOWEST, _HIGHEST = np.iinfo(np.int64).min, np.iinfo(np.int64).max

STEEPEST, FLATTEST = 2.0**24, 2.0**-36
"""Slopes outside need not be searched for. Steeper than 2^24, all thresholds of 8 bits lie on two
neighbouring integers; flatter than 2^-36, at most one lies within 32 bits. So a slope near these ends
separates them too.
"""


def ms(eta: int, c: int, b: int, d: int) -> int:
    """Multiply-shift (eta·c + b) >> d in unbounded integers; the shift is arithmetic, a floor."""
    return (eta * c + b) >> d


@dataclass(frozen=True)
class MultiplyShift:
    """Constants of one channel: ms(η) = (η·c + b) >> d."""

    c: int
    b: int
    d: int

    def __call__(self, eta: int) -> int:
        return ms(eta, self.c, self.b, self.d)

    def fits(self, lo: int, hi: int) -> bool:
        """Whether the dialect's bounds hold over η in [lo, hi]: c, d, and |η·c + b| < 2^62."""
        return (
            abs(self.c) < 1 << C_BITS
            and 0 <= self.d <= MAX_SHIFT
            and max(abs(lo * self.c + self.b), abs(hi * self.c + self.b)) < PRODUCT_LIMIT
        )

    def fits_32(self, lo: int, hi: int) -> bool:
        """Whether product, offset and sum all fit int32 over η in [lo, hi]."""
        values = [self.b] + [eta * self.c + extra for eta in (lo, hi) for extra in (0, self.b)]
        return all(-(1 << 31) <= value < 1 << 31 for value in values)


@dataclass(frozen=True)
class RequantizeSolution:
    """Constants of all channels of one requantization and what is proven of them.

    `proven[c]`: the constants give the exact level for every η of the proven range. Otherwise
    `deviations[c]` is the exact number of η in the range that get another level (an η that is two levels
    off counts twice).
    """

    constants: list[MultiplyShift]
    proven: list[bool]
    deviations: list[int]

    def __iter__(self) -> Iterator[MultiplyShift]:
        return iter(self.constants)


def slope_bounds(stairs: Staircases) -> tuple[np.ndarray, np.ndarray]:
    """Open interval of slopes μ [C], as float64, for which some real offset separates every stair.

    Reaching level k needs μ·T_k + b ≥ k, not reaching j before its threshold needs μ·(T_j − 1) + b < j. The
    room for b between the two is a concave function of μ; its zeros on both sides are found by Newton's
    method from outside, which only steps on zeros of its linear pieces and ends after a few. An end that is
    still open at four times or a quarter of the true slope (brought within FLATTEST and STEEPEST) is left
    there. The result guides the search; it proves nothing.
    """
    slope = np.clip(stairs.slope, FLATTEST, STEEPEST)
    return _slope_end(stairs, slope / 4), _slope_end(stairs, slope * 4)


def _slope_end(stairs: Staircases, start: np.ndarray) -> np.ndarray:
    """Newton's method from `start` towards the feasible slopes."""
    table, lo, hi = stairs.thresholds, stairs.lo[:, None], stairs.hi[:, None]
    levels = np.arange(1, stairs.quantizer.steps + 1, dtype=np.float64)
    origin = table[:, :1]
    reached = np.where(table <= hi, (table - origin).astype(np.float64), np.inf)
    left = np.where(table > lo, (table - 1 - origin).astype(np.float64), -np.inf)
    slope = np.maximum(start, np.finfo(np.float64).tiny)
    rows = np.arange(stairs.channels)
    for _ in range(64):
        below = levels - slope[rows, None] * reached[rows]
        above = levels - slope[rows, None] * left[rows]
        k, j = below.argmax(axis=1), above.argmin(axis=1)
        index = np.arange(len(rows))
        span = left[rows, j] - reached[rows, k]
        closed = (above[index, j] < below[index, k]) & np.isfinite(span) & (span != 0)
        rows, k, j, span = rows[closed], k[closed], j[closed], span[closed]
        step = (j - k) / span
        moved = step != slope[rows]
        slope[rows] = step
        rows = rows[moved]
        if not len(rows):
            break
    return slope


def _offset_interval(
    table: np.ndarray, lo: np.ndarray, hi: np.ndarray, levels: np.ndarray, c: np.ndarray, d: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """[low, high] int64 [C] of the offsets B with which (η·c + B) >> d has exactly these thresholds; empty
    if low > high.

    Level k begins at T_k if and only if k·2^d − c·T_k ≤ B ≤ k·2^d − c·(T_k − 1) − 1. A threshold at the
    lower end of the range has no upper condition, one beyond the upper end no lower condition.
    """
    edge = levels[None, :] << d[:, None]
    product = c[:, None] * table
    low = np.where(table <= hi[:, None], edge - product, _LOWEST).max(axis=1)
    high = np.where(table > lo[:, None], edge - product + c[:, None] - 1, _HIGHEST).min(axis=1)
    return low, high


def _middle(low: int, high: int) -> int:
    """A whole number in the middle of an interval; its finite end where the other is unbounded."""
    if low == _LOWEST:
        return high
    if high == _HIGHEST:
        return low
    return (low + high) // 2


def _deviations(constants: MultiplyShift, row: list[int], lo: int, hi: int, first_level: int) -> int:
    """Σ_k |T_k − T'_k| over [lo, hi]: how many η get another level, weighted by how many levels they are
    off.
    """
    total = 0
    for level, threshold in enumerate(row, first_level):
        edge = (level << constants.d) - constants.b
        if constants.c == 0:
            actual = lo if edge <= 0 else hi + 1
        else:
            actual = min(max(-(-edge // constants.c), lo), hi + 1)
        total += abs(threshold - actual)
    return total


def _largest_shift(quantizer: Quantizer) -> int:
    """The largest d with which level·2^d stays below 2^61 for every level.

    With |c·T| < 2^62 the bounds of B are then below 2^63: they are exact in int64.
    """
    return MAX_SHIFT - 1 - max(abs(quantizer.lo), abs(quantizer.hi), 1).bit_length()


def _closest(
    stairs: Staircases, channel: int, slope: float, d_max: int, c_bits: int, power_of_two: bool
) -> MultiplyShift:
    """The best constants of a channel that has no exact ones: largest fitting d, B in the middle of its
    conditions.
    """
    row = slice(channel, channel + 1)
    lo, hi = int(stairs.lo[channel]), int(stairs.hi[channel])
    levels = np.arange(stairs.quantizer.lo + 1, stairs.quantizer.hi + 1, dtype=np.int64)
    exponent = min(max(round(-np.log2(slope)), 0), d_max) if power_of_two else 0
    shifts = [exponent] if power_of_two else range(d_max, -1, -1)
    for d in shifts:
        c = 1 if power_of_two else round(slope * 2.0**d)
        if c >= 1 << c_bits:
            continue
        low, high = _offset_interval(
            stairs.thresholds[row],
            stairs.lo[row],
            stairs.hi[row],
            levels,
            np.array([c], dtype=np.int64),
            np.array([d], dtype=np.int64),
        )
        constants = MultiplyShift(c, _middle(int(low[0]), int(high[0])), d)
        if constants.fits(lo, hi):
            return constants
    raise ArithmeticError(f"no multiplier fits slope {slope} over [{lo}, {hi}]")


def solve_requantize_channels(
    stairs: Staircases, *, c_bits: int = C_BITS, power_of_two: bool = False
) -> RequantizeSolution:
    """Constants for every channel: those with the smallest shift, hence multiplier, that are exact, or the
    closest ones.

    For one d, exact (c, B) exist only for integers c within 2^d times the slope interval, so the first d
    with such an integer is tried first; whether it is exact is then decided in integers. `power_of_two`
    fixes c to 1 (FQN).
    """
    q = stairs.quantizer
    levels = np.arange(q.lo + 1, q.hi + 1, dtype=np.int64)
    table, lo, hi = stairs.thresholds, stairs.lo, stairs.hi
    found: list[MultiplyShift | None] = [None] * stairs.channels
    low_level, high_level = stairs.levels()
    constant = low_level == high_level
    for channel in np.flatnonzero(constant).tolist():
        found[channel] = MultiplyShift(0, int(low_level[channel]), 0)

    # A quantizer of a single level has no thresholds to look between.
    low_slope, high_slope = slope_bounds(stairs) if q.steps else (stairs.slope, stairs.slope)
    centre = (low_slope + high_slope) / 2
    d_max = _largest_shift(q)
    pending = ~constant & (not power_of_two)
    for d in range(d_max + 1):
        unit = 2.0**d
        c_low = np.maximum(np.floor(low_slope * unit) + 1, 1)
        c_high = np.minimum(np.ceil(high_slope * unit) - 1, (1 << c_bits) - 1)
        rows = np.flatnonzero(pending & (c_low <= c_high))
        if not len(rows):
            continue
        c = np.clip(np.rint(centre[rows] * unit), c_low[rows], c_high[rows]).astype(np.int64)
        shifts = np.full(len(rows), d, dtype=np.int64)
        low, high = _offset_interval(table[rows], lo[rows], hi[rows], levels, c, shifts)
        for i in np.flatnonzero(low <= high).tolist():
            channel = int(rows[i])
            constants = MultiplyShift(int(c[i]), _middle(int(low[i]), int(high[i])), d)
            if constants.fits(int(lo[channel]), int(hi[channel])):
                found[channel] = constants
                pending[channel] = False
        if not pending.any():
            break

    deviations = [0] * stairs.channels
    for channel in [i for i, exact in enumerate(found) if exact is None]:
        slope = float(stairs.slope[channel] if power_of_two else centre[channel])
        constants = _closest(stairs, channel, slope, d_max, c_bits, power_of_two)
        row = table[channel].tolist()
        deviations[channel] = _deviations(constants, row, int(lo[channel]), int(hi[channel]), q.lo + 1)
        found[channel] = constants
    signs = stairs.sign.tolist()
    upright = [constants for constants in found if constants is not None]
    result = [MultiplyShift(s * m.c, m.b, m.d) for s, m in zip(signs, upright, strict=True)]
    return RequantizeSolution(result, [count == 0 for count in deviations], deviations)


def solve_requantize(
    alpha_ratio: Fraction, offset: Fraction, lo_eta: int, hi_eta: int, lo: int, hi: int
) -> tuple[MultiplyShift, int]:
    """Constants of one channel for clip(round_half_even(η·alpha_ratio + offset), lo, hi), η in [lo_eta,
    hi_eta].

    Returns the constants and the number of η that deviate (0: proven exact). `alpha_ratio` may be negative
    or zero.
    """
    form = ChannelForm(alpha_ratio, offset)
    quantizer = Quantizer(Fraction(1), lo, hi)
    solution = solve_requantize_channels(
        staircases([form], quantizer, np.array([lo_eta], np.int64), np.array([hi_eta], np.int64))
    )
    return solution.constants[0], solution.deviations[0]


@dataclass(frozen=True)
class ScaleSolution:
    """η·ratio + offset as a multiply-shift, and a bound of |ms(η) − (η·ratio + offset)| over the range."""

    constants: MultiplyShift
    error: float


def solve_scale(
    ratio: Fraction, offset: Fraction, lo: int, hi: int, *, c_bits: int = C_BITS, power_of_two: bool = False
) -> ScaleSolution:
    """Eq. 8: c and d that minimise |ratio − c/2^d| within the budget, and B = offset·2^d with the rounding
    half.

    η runs over [lo, hi]. The bound is ½ for the rounding (0 where d = 0), plus what c/2^d and B leave at
    the ends of the range; both are linear in η, so the ends are the worst. `power_of_two` makes c a power
    of two (1 for ratios below 1): FQN. A term that no such shift leaves, and that stays below ½, becomes 0.
    Raises OverflowError for a ratio that no c of `c_bits` bits reaches.
    """
    if ratio == 0:
        b = round(offset)
        return ScaleSolution(MultiplyShift(0, b, 0), float_above(abs(offset - b)))
    if power_of_two:
        exponent = _nearest_exponent(abs(ratio))
        first, last = max(-exponent, 0), max(-exponent, 0)
    else:
        magnitude = ratio.numerator.bit_length() - ratio.denominator.bit_length()
        first, last = min(c_bits + 1 - magnitude, MAX_SHIFT), 0
    for d in range(min(first, MAX_SHIFT), last - 1, -1):
        if power_of_two:
            c = (1 << max(exponent, 0)) * (1 if ratio > 0 else -1)
        else:
            c = _round_ratio(ratio.numerator << d, ratio.denominator)
        if abs(c) >= 1 << c_bits:
            continue
        spare = min((c & -c).bit_length() - 1, d) if c else 0
        c, d = c >> spare, d - spare
        b = _round_ratio(offset.numerator << d, offset.denominator) + ((1 << d) >> 1)
        constants = MultiplyShift(c, b, d)
        if constants.fits(lo, hi):
            return ScaleSolution(constants, _scale_error(ratio, offset, lo, hi, constants))
    if abs(ratio) * max(abs(lo), abs(hi)) < Fraction(1, 2):
        # Less than half a step over the whole range: no shift is so large that it would need one.
        constants = MultiplyShift(0, round(offset), 0)
        if constants.fits(lo, hi):
            return ScaleSolution(constants, _scale_error(ratio, offset, lo, hi, constants))
    raise OverflowError(f"no multiplier of {c_bits} bits fits the ratio {float(ratio)} over [{lo}, {hi}]")


def float_above(value: Fraction) -> float:
    """A float that is not below the rational."""
    rounded = value.numerator / value.denominator
    return rounded if Fraction(rounded) >= value else math.nextafter(rounded, math.inf)


def _round_ratio(numerator: int, denominator: int) -> int:
    """The nearest integer of numerator / denominator, halves up."""
    return (2 * numerator + denominator) // (2 * denominator)


def _nearest_exponent(ratio: Fraction) -> int:
    """The e that minimises |ratio − 2^e|."""
    below = ratio.numerator.bit_length() - ratio.denominator.bit_length()
    options = range(below - 1, below + 2)
    return min(options, key=lambda e: abs(ratio - Fraction(2) ** e))


def _scale_error(ratio: Fraction, offset: Fraction, lo: int, hi: int, constants: MultiplyShift) -> float:
    """The bound of solve_scale over a common denominator, in whole numbers until the one division that
    rounds up.
    """
    unit = 1 << constants.d
    slope = (constants.c * ratio.denominator - ratio.numerator * unit) * offset.denominator
    rest = ((constants.b - (unit >> 1)) * offset.denominator - offset.numerator * unit) * ratio.denominator
    worst = max(abs(lo * slope + rest), abs(hi * slope + rest))
    linear = worst / (ratio.denominator * offset.denominator * unit)
    return math.nextafter(linear + (0.5 if constants.d else 0.0), math.inf) if linear or constants.d else 0.0
