"""Requantized sums of two tensors of codes, proven over all pairs of codes.

code(a, b) = clip(round_half_even(a·r1 + b·r2 + offset) + zero_point, lo, hi) as (n1·a + n2·b + B) >> d, with
one shift: the code of a pair is right if and only if k·2^d ≤ n1·a + n2·b + B < (k+1)·2^d for its code k, one
side being free at the ends of the clip. Each pair allows an interval of B, and what all allow is right for
all (docs/proofs.md).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from aqd_deploy.integer.domain import INT32_MAX
from aqd_deploy.integer.rational import round_half_even
from aqd_deploy.integer.staircase import Quantizer

MOST_BITS = 24
"""The largest shift that is tried. Sums of codes reach 2^8 steps, so that 2^31 leaves room for no more."""

_BESIDE = [pair for pair in itertools.product(range(-2, 3), repeat=2) if any(pair)]

_FAR = float(1 << 40)
"""Quotients are held within this: no code is so large."""


@dataclass(frozen=True)
class Codes:
    """The codes of one operand: `lo` to `hi`, each standing for `slope` steps of the sum's quantizer."""

    slope: Fraction
    lo: int
    hi: int


@dataclass(frozen=True)
class SumSolution:
    """(left·a + right·b + offset) >> shift, the number of pairs that get another code, the sums' bounds, and
    the lowest and highest code of a pair.
    """

    left: int
    right: int
    offset: int
    shift: int
    deviations: int
    sums: tuple[int, int]
    codes: tuple[int, int]


def solve_sum(first: Codes, second: Codes, offset: Fraction, quantizer: Quantizer) -> SumSolution | None:
    """The constants of the smallest shift that are right for all pairs, else those that deviate least.

    `offset` is in steps of the quantizer, without its zero point. None where not even a shift of 0 keeps the
    sums within int32.
    """
    wanted = pair_codes(first, second, offset, quantizer)
    best: SumSolution | None = None
    for factors in _tries(first.slope, second.slope):
        found = _with_factors(first, second, wanted, quantizer, factors)
        if found is not None and (best is None or found.deviations < best.deviations):
            best = found
            if not found.deviations:
                break
    return best


def _tries(left: Fraction, right: Fraction) -> Iterator[tuple[int, int, int]]:
    """Factors and shifts in the order of trying: the nearest ones of every shift, then those beside them."""
    shifts = range(MOST_BITS + 1)
    for shift in shifts:
        yield round(left * (1 << shift)), round(right * (1 << shift)), shift
    for shift in reversed(shifts[-8:]):
        for more, other in _BESIDE:
            yield round(left * (1 << shift)) + more, round(right * (1 << shift)) + other, shift


def pair_codes(first: Codes, second: Codes, offset: Fraction, quantizer: Quantizer) -> np.ndarray:
    """The code of every pair, int64 [first, second]: float64 decides what is far from a tie, exact numbers
    the rest.

    Each of the three terms has a relative error of at most 3u, each of two sums adds one of u: below 8u of
    the terms' absolute sum, where 16u are taken.
    """
    a = np.arange(first.lo, first.hi + 1)
    b = np.arange(second.lo, second.hi + 1)
    left, right, rest = a * _float(first.slope), b * _float(second.slope), _float(offset)
    quotient = np.clip(left[:, None] + right[None, :] + rest, -_FAR, _FAR)
    slack = (np.abs(left)[:, None] + np.abs(right)[None, :] + abs(rest)) * 2.0**-49
    rounded = np.rint(quotient)
    undecided = np.abs(np.abs(quotient - rounded) - 0.5) <= slack
    rounded = rounded.astype(np.int64)
    for i, j in np.argwhere(undecided & (np.abs(quotient) < _FAR)).tolist():
        exact = int(a[i]) * first.slope + int(b[j]) * second.slope + offset
        rounded[i, j] = round_half_even(exact)
    return np.clip(rounded + quantizer.zero_point, quantizer.lo, quantizer.hi)


def _float(value: Fraction) -> float:
    """The nearest float64 within ±2^200."""
    limit = Fraction(1 << 200)
    return float(min(max(value, -limit), limit))


def _with_factors(
    first: Codes, second: Codes, wanted: np.ndarray, quantizer: Quantizer, constants: tuple[int, int, int]
) -> SumSolution | None:
    """The best offset of two factors and a shift; None where sums would leave int32."""
    left, right, shift = constants
    unit = 1 << shift
    if max(abs(left), abs(right)) > INT32_MAX:
        return None
    a = left * np.arange(first.lo, first.hi + 1, dtype=np.int64)
    b = right * np.arange(second.lo, second.hi + 1, dtype=np.int64)
    sums = a[:, None] + b[None, :]
    edge = wanted << shift
    none = np.iinfo(np.int64)
    lowest = int(np.where(wanted > quantizer.lo, edge - sums, none.min).max())
    highest = int(np.where(wanted < quantizer.hi, edge + unit - 1 - sums, none.max).min())
    offset = _middle(lowest, highest)
    ends = int(sums.min()) + offset, int(sums.max()) + offset
    reached = [abs(int(v)) for v in (*ends, a.min() + offset, a.max() + offset, b.min(), b.max())]
    if max(reached) > INT32_MAX:
        return None
    got = wanted
    if lowest > highest:
        got = np.clip((sums + offset) >> shift, quantizer.lo, quantizer.hi)
    deviations = int(np.abs(got - wanted).sum())
    return SumSolution(left, right, offset, shift, deviations, ends, (int(got.min()), int(got.max())))


def _middle(lowest: int, highest: int) -> int:
    """A whole number in the middle; the finite end where the other is unbounded, 0 where both are."""
    none = np.iinfo(np.int64)
    if lowest == none.min:
        return 0 if highest == none.max else highest
    return lowest if highest == none.max else (lowest + highest) // 2
