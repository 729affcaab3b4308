"""Functions of each element, by ONNX's names, in exact numbers: rational ones exactly, others within 2^-150.

`FUNCTIONS` has one entry a function. Arguments and results are rationals; a transcendental result has
60 decimal digits, far closer than the distance of any quantizer's decision from its tie, except where the
true result is rational itself: then the argument is special (e^0, ln 1), and the result here is exact too.
"""

from __future__ import annotations

import decimal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction

from aqd_deploy.integer.rational import inverse_sqrt

_DIGITS = decimal.Context(prec=60, Emax=decimal.MAX_EMAX, Emin=decimal.MIN_EMIN)
_FARTHEST = 4096
"""Exponents are taken within this: e^±4096 is beyond every float."""

_HALF = Fraction(1, 2)
_PI = decimal.Decimal("3.14159265358979323846264338327950288419716939937510582097494459230782")
_LAST_DIGIT = decimal.Decimal("1e-58")


@dataclass(frozen=True)
class FunctionEntry:
    """`apply`(x, parameters) raises ArithmeticError where the function has no finite value. `attributes`: the
    parameters in order, ONNX's names with their defaults.
    """

    apply: Callable[[Fraction, tuple[Fraction, ...]], Fraction]
    attributes: Mapping[str, float | Fraction]


def _decimal(x: Fraction) -> decimal.Decimal:
    return _DIGITS.divide(decimal.Decimal(x.numerator), decimal.Decimal(x.denominator))


def exponential(x: Fraction) -> Fraction:
    """e^x."""
    x = min(max(x, Fraction(-_FARTHEST)), Fraction(_FARTHEST))
    return Fraction(_DIGITS.exp(_decimal(x))) if x else Fraction(1)


def logarithm(x: Fraction) -> Fraction:
    """ln x; ArithmeticError for x ≤ 0."""
    if x <= 0:
        raise ArithmeticError("the logarithm of a number that isn't positive")
    return Fraction(_DIGITS.ln(_decimal(x))) if x != 1 else Fraction(0)


def square_root(x: Fraction) -> Fraction:
    """√x, exact for squares; ArithmeticError for x < 0."""
    if x < 0:
        raise ArithmeticError("the square root of a negative number")
    return x * inverse_sqrt(x, 200) if x else x


def sigmoid(x: Fraction) -> Fraction:
    """1 / (1 + e^-x)."""
    return 1 / (1 + exponential(-x))


def hyperbolic_tangent(x: Fraction) -> Fraction:
    """tanh x."""
    return 2 * sigmoid(2 * x) - 1


def softplus(x: Fraction) -> Fraction:
    """ln(1 + e^x)."""
    return logarithm(1 + exponential(x))


def error_function(x: Fraction) -> Fraction:
    """erf x by its series x·Σ (2x²)^n / (1·3·…·(2n+1))·e^(−x²)·2/√π, all of whose terms have one sign."""
    if not x:
        return x
    if abs(x) > 12:
        # 1 − erf 12 is below 2^-200.
        return Fraction(1 if x > 0 else -1)
    y = _decimal(x)
    square = _DIGITS.multiply(y, y)
    twice = _DIGITS.multiply(square, 2)
    term = total = y
    n = 1
    while abs(term) > abs(total) * _LAST_DIGIT:
        term = _DIGITS.divide(_DIGITS.multiply(term, twice), decimal.Decimal(2 * n + 1))
        total = _DIGITS.add(total, term)
        n += 1
    scaled = _DIGITS.multiply(_DIGITS.multiply(total, 2), _DIGITS.exp(_DIGITS.minus(square)))
    return Fraction(_DIGITS.divide(scaled, _DIGITS.sqrt(_PI)))


_ROOT_OF_HALF = inverse_sqrt(Fraction(2), 200)
_ROOT_OF_TWO_OVER_PI = inverse_sqrt(Fraction(_PI) / 2, 200)


def _gelu(x: Fraction, p: tuple[Fraction, ...]) -> Fraction:
    """By erf, or by tanh where the parameter is 1."""
    if p[0]:
        return x * sigmoid(2 * _ROOT_OF_TWO_OVER_PI * (x + Fraction("0.044715") * x**3))
    return x * _HALF * (1 + error_function(x * _ROOT_OF_HALF))


def _clipped(x: Fraction) -> Fraction:
    return min(max(x, Fraction(0)), Fraction(1))


def _elu(x: Fraction, p: tuple[Fraction, ...]) -> Fraction:
    return x if x >= 0 else p[0] * (exponential(x) - 1)


def _celu(x: Fraction, p: tuple[Fraction, ...]) -> Fraction:
    return x if x >= 0 else p[0] * (exponential(x / p[0]) - 1)


def _selu(x: Fraction, p: tuple[Fraction, ...]) -> Fraction:
    return p[1] * (x if x > 0 else p[0] * (exponential(x) - 1))


def _floor(x: Fraction) -> Fraction:
    return Fraction(x.numerator // x.denominator)


def _plain(function: Callable[[Fraction], Fraction]) -> FunctionEntry:
    return FunctionEntry(lambda x, _: function(x), {})


FUNCTIONS: Mapping[str, FunctionEntry] = {
    "Abs": _plain(abs),
    "Ceil": _plain(lambda x: -_floor(-x)),
    "Celu": FunctionEntry(_celu, {"alpha": 1.0}),
    "Elu": FunctionEntry(_elu, {"alpha": 1.0}),
    "Erf": _plain(error_function),
    "Exp": _plain(exponential),
    "Floor": _plain(_floor),
    "Gelu": FunctionEntry(_gelu, {"approximate": 0.0}),
    "HardSigmoid": FunctionEntry(lambda x, p: _clipped(p[0] * x + p[1]), {"alpha": 0.2, "beta": 0.5}),
    "HardSwish": _plain(lambda x: x * _clipped(x / 6 + _HALF)),
    "LeakyRelu": FunctionEntry(lambda x, p: x if x >= 0 else p[0] * x, {"alpha": 0.01}),
    "Log": _plain(logarithm),
    "Mish": _plain(lambda x: x * hyperbolic_tangent(softplus(x))),
    "Neg": _plain(lambda x: -x),
    "Reciprocal": _plain(lambda x: 1 / x),
    "Round": _plain(lambda x: Fraction(round(x))),
    "Selu": FunctionEntry(_selu, {"alpha": 1.67326319217681884765625, "gamma": 1.05070102214813232421875}),
    "Sigmoid": _plain(sigmoid),
    "Sign": _plain(lambda x: Fraction((x > 0) - (x < 0))),
    "Softplus": _plain(softplus),
    "Softsign": _plain(lambda x: x / (1 + abs(x))),
    "Sqrt": _plain(square_root),
    "Swish": FunctionEntry(lambda x, p: x * sigmoid(p[0] * x), {"alpha": 1.0}),
    "Tanh": _plain(hyperbolic_tangent),
    "ThresholdedRelu": FunctionEntry(lambda x, p: x if x > p[0] else Fraction(0), {"alpha": 1.0}),
}
