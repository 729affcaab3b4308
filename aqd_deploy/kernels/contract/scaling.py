"""The form in which a kernel computes (v·c + B) >> d: the cheapest that is exact for the constants at hand.

Everything is decided in integers, from the constants and the closed interval of each channel's operand.
`docs/integer-dialect.md` bounds what may come: |c| < 2^31, 0 ≤ d ≤ 62, |v·c + B| < 2^62.

A requantization clip((v·c + B) >> d, lo, hi) is monotone in v, so its clip moves before the product: v is
clamped to the first and the last operand whose code lies within [lo, hi]. Then lo·2^d ≤ v·c + B <
(hi + 1)·2^d, which fits 32 bits for most layers, and where it doesn't, c and B can be multiplied by the power
of two that makes d at least 32. A clamp that no operand of the interval reaches is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aqd_deploy.integer.ranges import Interval
from aqd_deploy.kernels.contract.spec import GENERAL, Scaling

_INT32 = np.iinfo(np.int32)
_PRODUCT_LIMIT = 1 << 62
# lo·2^d and (hi + 1)·2^d of 8-bit codes stay within int64 up to here.
_LARGEST_SHIFT = 53


@dataclass(frozen=True)
class Constants:
    """c, B and d of every row, int64 [rows]."""

    c: np.ndarray
    b: np.ndarray
    d: np.ndarray

    @classmethod
    def of(cls, c: np.ndarray, b: np.ndarray, d: np.ndarray) -> Constants:
        """From arrays of any integer types."""
        return cls(*(np.array(a, np.int64) for a in (c, b, d)))

    def __call__(self, v: np.ndarray) -> np.ndarray:
        """(v·c + B) >> d of int64 `v` [rows]."""
        return (v * self.c + self.b) >> self.d

    def image(self, operand: Interval) -> Interval:
        """The interval of the results."""
        ends = self(operand.lo), self(operand.hi)
        return Interval(np.minimum(*ends), np.maximum(*ends))

    @property
    def is_identity(self) -> bool:
        return bool(np.all(self.c == 1) and not self.b.any() and not self.d.any())


@dataclass(frozen=True)
class Scaled:
    """A form and the parameters it takes, in the order of `fixed_point.declare`."""

    scaling: Scaling
    arrays: list[np.ndarray]


def scale_stream(constants: Constants, operand: Interval, levels: int = 1) -> Scaled:
    """The form of v → (v·c + B) >> d, an int32, of rows [levels·C]."""
    c, b, d = constants.c, constants.b, constants.d
    powers = (c > 0) & (c & (c - 1) == 0)
    if not d.any() and powers.all() and _fits_32(constants, operand):
        exponents = np.round(np.log2(c)).astype(np.int64)
        return Scaled(Scaling("shift"), [_words(exponents, b)])
    if _fits_32(constants, operand):
        return Scaled(Scaling("narrow"), [_words(c, b, d)])
    if d.max() <= 32:
        return Scaled(Scaling("wide"), [_pairs(levels, c, b, (d, 32 - d))])
    if d.min() >= 32:
        return Scaled(Scaling("high"), [_words(d - 32), _pairs(levels, c, b)])
    return _general(constants)


def scale_requantize(
    constants: Constants, operand: Interval, limits: tuple[int, int], levels: int = 1, *, relu: bool = False
) -> Scaled:
    """The form of v → clip((v·c + B) >> d, *limits) of rows [levels·C].

    `relu`: of max(v, 0) instead of v; a form other than "general" then includes it.
    """
    floor = np.zeros_like(operand.lo) if relu else operand.lo
    reached = Interval(np.maximum(operand.lo, floor), np.maximum(operand.hi, floor))
    if constants.d.max() > _LARGEST_SHIFT or np.abs(constants.b).max() >= _PRODUCT_LIMIT:
        return _general(constants)
    settled, clamp, clip = _clamps(constants, reached, limits)
    lower, upper = bool((clamp.lo > operand.lo).any()), bool((clamp.hi < operand.hi).any())
    if _fits_32(settled, clamp):
        bounds = _bounds(clamp, lower, upper)
        return Scaled(
            Scaling("narrow", lower, upper, clip), [_words(settled.c, settled.b, settled.d, *bounds)]
        )
    clip_only = clip and not relu and _within_int32(settled.image(operand))
    if clip_only:
        lower = upper = False
    bounds = _bounds(clamp, lower, upper)
    up = np.maximum(32 - settled.d, 0) * (not clip_only)
    high = settled.d + up >= 32
    high &= (np.abs(settled.c) << up <= _INT32.max) & (np.abs(settled.b) < _PRODUCT_LIMIT >> up)
    if high.all():
        pairs = _pairs(levels, settled.c << up, settled.b << up)
        saturates = (lower or upper) and _does_without_clamps(settled, operand, limits, up, relu)
        scaling = Scaling("high", lower, upper, clip, saturates)
        return Scaled(scaling, [_words(settled.d + up - 32, *bounds), pairs])
    if settled.d.max() <= 32:
        words = [_words(*bounds)] if bounds else []
        pairs = _pairs(levels, settled.c, settled.b, (settled.d, 32 - settled.d))
        return Scaled(Scaling("wide", lower, upper, clip), [*words, pairs])
    return _general(constants)


def _does_without_clamps(
    constants: Constants, operand: Interval, limits: tuple[int, int], up: np.ndarray, relu: bool
) -> bool:
    """Whether clip(ms(v)) is right for every v of `operand`: nothing overflows, and what a ReLU makes 0 has
    the lowest code, as all that is less.
    """
    ends = [end * constants.c + constants.b for end in (operand.lo, operand.hi)]
    if any((np.abs(end) >= _PRODUCT_LIMIT >> up).any() for end in ends):
        return False
    negative = operand.lo < 0
    at_zero = np.clip(constants(np.zeros_like(operand.lo)), *limits)
    falls = bool((constants.c[negative] < 0).any() or (at_zero[negative] > limits[0]).any())
    return _within_int32(constants.image(operand)) and not (relu and falls)


def _bounds(clamp: Interval, lower: bool, upper: bool) -> list[np.ndarray]:
    return [bound for bound, used in ((clamp.lo, lower), (clamp.hi, upper)) if used]


def _within_int32(interval: Interval) -> bool:
    return bool(interval.lo.min() >= _INT32.min and interval.hi.max() <= _INT32.max)


def _general(constants: Constants) -> Scaled:
    arrays = [constants.c.astype(np.int32), constants.b, constants.d.astype(np.int32)]
    return Scaled(GENERAL, [np.ascontiguousarray(array) for array in arrays])


def _words(*columns: np.ndarray) -> np.ndarray:
    """int32 [n, rows]. Raises OverflowError where a value does not fit, which no caller lets happen."""
    stacked = np.stack(columns)
    if stacked.min() < _INT32.min or stacked.max() > _INT32.max:
        raise OverflowError(f"{stacked.min()} … {stacked.max()} as int32")
    return stacked.astype(np.int32)


def _pairs(levels: int, *columns: np.ndarray | tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """int64 [n, 2, levels · pairs of channels]; a tuple is (values of even rows, values of odd rows)."""
    result = []
    for column in columns:
        for parity, values in enumerate(column if isinstance(column, tuple) else (column, column)):
            by_level = values.reshape(levels, -1)
            odd = by_level.shape[1] % 2
            padded = np.pad(by_level, ((0, 0), (0, odd)))
            result.append(padded[:, parity::2].reshape(-1))
    return np.stack(result).reshape(len(columns), 2, -1).astype(np.int64)


def _fits_32(constants: Constants, operand: Interval) -> bool:
    """Whether product, offset and sum fit int32 over the interval, and 0 ≤ d ≤ 31."""
    if constants.d.max() > 31:
        return False
    ends = [end * constants.c for end in (operand.lo, operand.hi)]
    values = [constants.b, *ends, *(end + constants.b for end in ends)]
    return all(_INT32.min <= value.min() and value.max() <= _INT32.max for value in values)


def _clamps(
    constants: Constants, operand: Interval, limits: tuple[int, int]
) -> tuple[Constants, Interval, bool]:
    """The interval of operands whose code lies within `limits`, or one operand more on a side where the next
    one's code would then be wrong because codes are jumped over; whether there is such a side, so that the
    clip has to follow the shift as well; and the constants, where a constant channel has become c = 0, B =
    its code, d = 0 with no clamp.
    """
    lo, hi = limits
    ends = [np.clip(constants(end), lo, hi) for end in (operand.lo, operand.hi)]
    constant = ends[0] == ends[1]
    settled = Constants(
        np.where(constant, 0, constants.c),
        np.where(constant, ends[0], constants.b),
        np.where(constant, 0, constants.d),
    )
    unit = np.int64(1) << constants.d
    below, above = lo * unit - constants.b, (hi + 1) * unit - 1 - constants.b
    c = np.where(constant, 1, constants.c)
    rising = c > 0
    first = -(-np.where(rising, below, above) // c)
    last = np.where(rising, above, below) // c
    first = np.where(constant, operand.lo, np.clip(first, operand.lo, operand.hi))
    last = np.where(constant, operand.hi, np.clip(last, operand.lo, operand.hi))
    before, after = np.maximum(first - 1, operand.lo), np.minimum(last + 1, operand.hi)
    jump_before = np.clip(settled(before), lo, hi) != settled(first)
    jump_after = np.clip(settled(after), lo, hi) != settled(last)
    clamp = Interval(np.where(jump_before, before, first), np.where(jump_after, after, last))
    return settled, clamp, bool(jump_before.any() or jump_after.any())
