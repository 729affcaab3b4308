"""Functions of intervals in float64: every value of the function within the interval lies within the result.

Each operation widens what it computes by 2^-46 of its size: numpy's functions are right to a few units in the
last of 53 bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

_SLACK = 2.0**-46
_ROOT_OF_TWO_OVER_PI = math.sqrt(2 / math.pi)


@dataclass(frozen=True)
class Enclosure:
    """Intervals [lo, hi], float64 arrays."""

    lo: np.ndarray
    hi: np.ndarray

    def __add__(self, other: Enclosure) -> Enclosure:
        return _widened(self.lo + other.lo, self.hi + other.hi, _size(self) + _size(other))

    def __sub__(self, other: Enclosure) -> Enclosure:
        return self + other.negative()

    def __mul__(self, other: Enclosure) -> Enclosure:
        ends = [x * y for x in (self.lo, self.hi) for y in (other.lo, other.hi)]
        return _widened(np.minimum.reduce(ends), np.maximum.reduce(ends))

    def __truediv__(self, other: Enclosure) -> Enclosure:
        return self * other.inverse()

    def negative(self) -> Enclosure:
        """−x."""
        return Enclosure(-self.hi, -self.lo)

    def inverse(self) -> Enclosure:
        """1/x; all numbers where the interval holds 0."""
        with np.errstate(divide="ignore"):
            low, high = 1 / self.hi, 1 / self.lo
        through = (self.lo <= 0) & (self.hi >= 0)
        return _widened(np.where(through, -np.inf, low), np.where(through, np.inf, high))

    def rising(self, function: Callable[[np.ndarray], np.ndarray]) -> Enclosure:
        """Of a non-decreasing function."""
        return _widened(function(self.lo), function(self.hi))


def point(value: Fraction) -> Enclosure:
    """A number."""
    return _widened(np.array(float(value)), np.array(float(value)))


def _size(x: Enclosure) -> np.ndarray:
    return np.maximum(np.abs(x.lo), np.abs(x.hi))


def _widened(lo: np.ndarray, hi: np.ndarray, size: np.ndarray | None = None) -> Enclosure:
    """With room for rounding, in parts of `size`, else of the ends themselves. A NaN is any number."""
    lo = np.where(np.isnan(lo), -np.inf, lo)
    hi = np.where(np.isnan(hi), np.inf, hi)
    low, high = (np.abs(lo), np.abs(hi)) if size is None else (size, size)
    tiny = np.finfo(np.float64).tiny
    return Enclosure(lo - low * _SLACK - tiny, hi + high * _SLACK + tiny)


def _sigmoid(v: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(v, -700, 700)))


def _softplus(v: np.ndarray) -> np.ndarray:
    return np.logaddexp(0, v)


_erf = np.vectorize(math.erf, otypes=[np.float64])
_erfc = np.vectorize(math.erfc, otypes=[np.float64])
"""1 − erf, without its cancellation."""


def _exp(v: np.ndarray) -> np.ndarray:
    return np.exp(np.minimum(v, 709))


def _positive(function: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """A function of positive numbers; others are taken as 0, whose exact value is refused."""
    return lambda v: function(np.maximum(v, 0))


def _log(v: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(v)


def _rising(function: Callable[..., np.ndarray]) -> Callable[..., Enclosure]:
    return lambda x, *parameters: x.rising(lambda v: function(v, *parameters))


def _number(value: float) -> Enclosure:
    return Enclosure(np.array(value), np.array(value))


def _part(x: Enclosure, positive: bool) -> Enclosure:
    return x.rising(lambda v: np.maximum(v, 0) if positive else np.minimum(v, 0))


def _two_slopes(x: Enclosure, slope: float) -> Enclosure:
    return _part(x, True) + _number(slope) * _part(x, False)


def _elu(x: Enclosure, alpha: float) -> Enclosure:
    return _part(x, True) + _number(alpha) * _part(x, False).rising(np.expm1)


def _celu(x: Enclosure, alpha: float) -> Enclosure:
    return _part(x, True) + _number(alpha) * (_part(x, False) / _number(alpha)).rising(np.expm1)


def _selu(x: Enclosure, alpha: float, gamma: float) -> Enclosure:
    return _number(gamma) * _elu(x, alpha)


def _hard_sigmoid(x: Enclosure, alpha: float, beta: float) -> Enclosure:
    return (_number(alpha) * x + _number(beta)).rising(lambda v: np.clip(v, 0, 1))


def _gelu(x: Enclosure, by_tanh: float) -> Enclosure:
    if by_tanh:
        cube = x.rising(lambda v: v * v * v)
        inner = _number(_ROOT_OF_TWO_OVER_PI) * (x + _number(0.044715) * cube)
        return x * (_number(2) * inner).rising(_sigmoid)
    return _number(0.5) * x * (x / _number(math.sqrt(2))).rising(lambda v: _erfc(-v))


def _absolute(x: Enclosure) -> Enclosure:
    low = np.where((x.lo <= 0) & (x.hi >= 0), 0, np.minimum(np.abs(x.lo), np.abs(x.hi)))
    return _widened(low, _size(x))


def _above(x: Enclosure, threshold: float) -> Enclosure:
    none = x.hi <= threshold
    partly = x.lo <= threshold
    low = np.where(partly, min(threshold, 0.0), x.lo)
    high = np.where(none, 0.0, np.maximum(x.hi, 0.0))
    return _widened(low, high)


ENCLOSURES: Mapping[str, Callable[..., Enclosure]] = {
    "Abs": _absolute,
    "Ceil": _rising(np.ceil),
    "Celu": _celu,
    "Elu": _elu,
    "Erf": _rising(_erf),
    "Exp": _rising(_exp),
    "Floor": _rising(np.floor),
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": lambda x: x * (x / _number(6) + _number(0.5)).rising(lambda v: np.clip(v, 0, 1)),
    "LeakyRelu": _two_slopes,
    "Log": _rising(_positive(_log)),
    "Mish": lambda x: x * x.rising(lambda v: np.tanh(_softplus(v))),
    "Neg": lambda x: x.negative(),
    "Reciprocal": lambda x: x.inverse(),
    "Round": _rising(np.rint),
    "Selu": _selu,
    "Sigmoid": _rising(_sigmoid),
    "Sign": _rising(np.sign),
    "Softplus": _rising(_softplus),
    "Softsign": _rising(lambda v: v / (1 + np.abs(v))),
    "Sqrt": _rising(_positive(np.sqrt)),
    "Swish": lambda x, alpha: x * (_number(alpha) * x).rising(_sigmoid),
    "Tanh": _rising(np.tanh),
    "ThresholdedRelu": _above,
}
"""The functions of `functions.py` by the same names."""
