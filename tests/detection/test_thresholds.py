"""The integer score threshold against the decision in real numbers."""

from __future__ import annotations

import math
from decimal import Context, Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aqd_deploy.detection.thresholds import integer_threshold, logit
from aqd_deploy.errors import ScaleError

WIDE = Context(prec=120)
probabilities = st.floats(1e-6, 1 - 1e-6)
scales = st.floats(1e-9, 10.0)


def above(eta: int, scale: float, probability: float) -> bool:
    """sigmoid(η·α) > t in 120 digits, another way than the code's: by an exponential, no logarithm.

    e^(−η·α) < (1−t)/t.
    """
    exponent = -Fraction(scale) * eta
    power = WIDE.exp(WIDE.divide(Decimal(exponent.numerator), Decimal(exponent.denominator)))
    rest = (1 - Fraction(probability)) / Fraction(probability)
    return power < WIDE.divide(Decimal(rest.numerator), Decimal(rest.denominator))


@given(probabilities, scales)
@example(0.5, 0.1)
@example(0.05, 2.0**-20)
@example(0.5000000000000001, 1.0)
def test_the_threshold_is_the_last_integer_below(probability, scale):
    bound = integer_threshold(probability, scale)
    assert not above(bound, scale, probability)
    assert above(bound + 1, scale, probability)


@given(probabilities, scales, st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=50))
def test_the_same_decision_as_in_floats(probability, scale, etas):
    """Where float64 can tell: |η·α − logit| more than its rounding."""
    bound = integer_threshold(probability, scale)
    values = np.array(etas, dtype=np.int32).astype(np.float64) * scale
    clear = np.abs(values - logit(probability)) > 1e-12 * (1 + np.abs(values) + abs(logit(probability)))
    with np.errstate(over="ignore"):
        in_floats = 1 / (1 + np.exp(-values)) > probability
    near_one = np.abs(values) > 30  # float64's sigmoid is 1 from 37 on; the comparison is still clear
    assert np.array_equal((np.array(etas) > bound)[clear & ~near_one], in_floats[clear & ~near_one])
    assert np.array_equal(
        (np.array(etas) > bound)[near_one & clear], (values > logit(probability))[near_one & clear]
    )


def test_a_half_is_zero():
    assert integer_threshold(0.5, 0.37) == 0


def test_a_quotient_that_float64_misplaces():
    """The exact decision differs from floor of the float quotient somewhere: the digits matter."""
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(300):
        probability = float(rng.uniform(0.01, 0.99))
        # A scale that puts the quotient next to an integer, nearer than float64 can see.
        scale = logit(probability) / int(rng.integers(1, 1000)) * math.copysign(1, logit(probability))
        bound = integer_threshold(probability, scale)
        assert not above(bound, scale, probability) and above(bound + 1, scale, probability)
        wrong += bound != math.floor(logit(probability) / scale)
    assert wrong > 0


def test_the_ends():
    assert integer_threshold(0.0, 1.0) is None
    assert integer_threshold(1.0, 1.0) == 2**31 - 1
    assert logit(0) == -math.inf and logit(1) == math.inf
    assert integer_threshold(math.nextafter(0, 1), 1.0) == -745


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan])
def test_bad_scales(scale):
    with pytest.raises(ScaleError, match="positive finite"):
        integer_threshold(0.05, scale)
