"""Exact arithmetic with one square root a channel, against comparisons that need no square root."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aqd_deploy.integer.rational import (
    ChannelForm,
    exact,
    exact_list,
    floor_surd,
    inverse_sqrt,
    round_half_even,
)

small = st.fractions(min_value=-50, max_value=50, max_denominator=40)
positive = st.fractions(min_value=Fraction(1, 1000), max_value=1000, max_denominator=1000)


@given(small, small, st.fractions(min_value=0, max_value=50, max_denominator=20))
def test_floor_surd_brackets_the_sum(p, q, v):
    """n ≤ p + q√v < n + 1, decided by squaring."""
    floor, whole = floor_surd(p, q, v)
    assert _at_least(p, q, v, Fraction(floor))
    assert not _at_least(p, q, v, Fraction(floor + 1))
    assert whole == (not _above(p, q, v, Fraction(floor)))


def _at_least(p, q, v, bound):
    """p + q√v ≥ bound without a root."""
    rest, square = bound - p, q * q * v
    if q >= 0:
        return rest <= 0 or square >= rest * rest
    return rest <= 0 and square <= rest * rest


def _above(p, q, v, bound):
    return not _at_least(-p, -q, v, -bound)


@given(positive)
def test_inverse_sqrt_is_within_its_bound(v):
    r = inverse_sqrt(v, 192)
    slack = Fraction(1, 1 << 192)
    assert (r * (1 - slack)) ** 2 * v <= 1 <= (r * (1 + slack)) ** 2 * v


@given(positive)
def test_inverse_sqrt_of_a_square_is_exact(root):
    assert inverse_sqrt(root * root) == 1 / root


def test_inverse_sqrt_of_zero_is_refused():
    with pytest.raises(ValueError):
        inverse_sqrt(Fraction(0))


def test_floats_are_taken_as_the_rational_they_are():
    assert exact(np.float32(0.1)) == Fraction(13421773, 134217728)
    assert exact_list(np.array([0.5, 3], dtype=np.float32)) == [Fraction(1, 2), 3]


@pytest.mark.parametrize(
    ("value", "rounded"), [("1/2", 0), ("3/2", 2), ("5/2", 2), ("-1/2", 0), ("-3/2", -2)]
)
def test_ties_go_to_even(value, rounded):
    assert round_half_even(Fraction(value)) == rounded


def test_batch_norm_of_a_channel_is_eq_5():
    """σ = 3: everything is rational and can be compared."""
    form = ChannelForm(Fraction(2), Fraction(1)).batch_normed(
        Fraction(6), Fraction(5), Fraction(4), Fraction(9)
    )
    assert (form.alpha(), form.beta()) == (Fraction(4), Fraction(-1))


def test_batch_norm_with_gamma_zero_is_a_constant_channel():
    form = ChannelForm(Fraction(2)).batch_normed(Fraction(0), Fraction(5), Fraction(4), Fraction(7))
    assert (form.alpha(), form.beta()) == (0, 5)


def test_forms_scale_and_shift():
    form = (
        ChannelForm(Fraction(2), Fraction(1), Fraction(3), Fraction(4))
        .scaled(Fraction(10))
        .shifted(Fraction(7))
    )
    assert (form.alpha(), form.beta()) == (10, 10 + 15 + 7)
