"""The score threshold in integers: which accumulator values mean a probability above t, decided exactly.

sigmoid(η·α) > t ⟺ η·α > ln(t/(1−t)) ⟺ η > ⌊ln(t/(1−t))/α⌋, for integers η and α > 0. t and α are taken as the
rational numbers that their floats are. ln of a rational other than 1 is irrational (Lindemann), so the
quotient is an integer only for t = 1/2, where it is 0, and enough digits always settle the floor.
"""

from __future__ import annotations

import functools
import math
from decimal import Context, Decimal
from fractions import Fraction

from aqd_deploy.errors import ScaleError


@functools.lru_cache(maxsize=4096)
def integer_threshold(probability: float, scale: float) -> int | None:
    """The largest integer η with sigmoid(η·scale) ≤ probability: a candidate is what is greater.

    None where no η is that small (probability ≤ 0: everything is a candidate). For probability ≥ 1 nothing
    is: the result is 2^31 − 1, above which an int32 is never. Raises ScaleError for a scale that is not
    positive and finite.
    """
    if not (math.isfinite(scale) and scale > 0):
        raise ScaleError("an output's scale is not valid", received=scale, valid="a positive finite number")
    if probability <= 0:
        return None
    if probability >= 1:
        return 2**31 - 1
    odds = Fraction(probability) / (1 - Fraction(probability))
    if odds == 1:
        return 0
    digits = 40
    while True:
        low, high = (_floor_quotient(odds, Fraction(scale), digits, error) for error in (-1, 1))
        if low == high:
            return low
        digits *= 2


def _floor_quotient(odds: Fraction, scale: Fraction, digits: int, error: int) -> int:
    """⌊(ln(odds) + error·10^(4−digits))/scale⌋ with ln to `digits` digits.

    Rounding odds to `digits` digits moves ln(odds) by at most 10^(1−digits), and ln's own rounding by at most
    10^(1−digits) of its value, which is below 750 for any float64 probability; 10^(4−digits) is more than
    both, so the true value lies between the results for error = −1 and +1.
    """
    context = Context(prec=digits)
    ratio = context.divide(Decimal(odds.numerator), Decimal(odds.denominator))
    margin = Fraction(error, 10 ** (digits - 4))
    return math.floor((Fraction(context.ln(ratio)) + margin) / scale)


def logit(probability: float) -> float:
    """ln(p/(1−p)) as a float64; −inf for p ≤ 0, +inf for p ≥ 1. For outputs that are floats already."""
    if probability <= 0:
        return -math.inf
    if probability >= 1:
        return math.inf
    return math.log(probability) - math.log1p(-probability)
