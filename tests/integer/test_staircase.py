"""The thresholds of a quantizer against the quantizer itself, over every integer of a small range."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aqd_deploy.integer.rational import ChannelForm
from aqd_deploy.integer.staircase import Quantizer, exact_threshold, staircases

# Few small denominators: ties, which need η·α/step + β/step to be k + ½, come up often.
coarse = st.sampled_from([Fraction(n, d) for n in range(-12, 13) for d in (1, 2, 3, 4)])
rational_squares = st.sampled_from([Fraction(1), Fraction(4), Fraction(9, 4), Fraction(1, 16)])
quantizers = st.builds(
    Quantizer,
    st.sampled_from([Fraction(1, 2), Fraction(1), Fraction(3, 4), Fraction(5)]),
    st.sampled_from([0, -8]),
    st.sampled_from([3, 7, 15]),
    st.sampled_from([0, 0, 1, 3]),
)


@given(coarse, coarse, coarse, rational_squares, quantizers, st.integers(-60, 0), st.integers(0, 60))
def test_staircase_is_the_quantizer(a, b0, b1, v, quantizer, lo, hi):
    """γ of either sign and zero; ties and zero points included."""
    form = ChannelForm(a, b0, b1 if a else Fraction(0), v)
    stairs = staircases([form], quantizer, np.array([lo]), np.array([hi]))
    sign = int(stairs.sign[0])
    for eta in range(lo, hi + 1):
        reached = quantizer.lo + int((sign * eta >= stairs.thresholds[0]).sum())
        assert reached == quantizer.code(eta * form.alpha() + form.beta())


def slow_thresholds(form, quantizer, lo, hi):
    """Each threshold by exact square roots, on its own: the definition."""
    codes = range(quantizer.lo + 1, quantizer.hi + 1)
    if form.a == 0:
        code = quantizer.code(form.beta())
        return [lo if k <= code else hi + 1 for k in codes]
    return [min(max(exact_threshold(form, quantizer, k), lo), hi + 1) for k in codes]


def assert_thresholds(forms, quantizer, lo, hi):
    """All channels at once give what each gives on its own, over −η where a is negative."""
    count = len(forms)
    stairs = staircases(forms, quantizer, np.full(count, lo), np.full(count, hi))
    assert stairs.thresholds.dtype == np.int64 and stairs.thresholds.shape == (count, quantizer.steps)
    for form, row in zip(forms, stairs.thresholds.tolist(), strict=True):
        upright = ChannelForm(abs(form.a), form.b0, form.b1, form.v)
        low, high = (lo, hi) if form.a >= 0 else (-hi, -lo)
        assert row == slow_thresholds(upright, quantizer, low, high), form


def slope_of(form, step):
    return abs(float(form.a)) / float(form.v) ** 0.5 / float(step)


near_float = st.builds(
    lambda mantissa, exponent: Fraction(mantissa) * Fraction(2) ** exponent,
    st.integers(-(1 << 24), 1 << 24),
    st.integers(-40, 10),
)
# Beyond what float64 can hold, and near its ends.
anywhere = st.builds(
    lambda mantissa, exponent: Fraction(mantissa) * Fraction(2) ** exponent,
    st.integers(-(1 << 24), 1 << 24),
    st.integers(-1300, 1300),
)
surds = st.fractions(min_value=Fraction(1, 10**6), max_value=100, max_denominator=10**6)


def forms_of(numbers, squares):
    return st.builds(
        lambda a, b0, b1, v: ChannelForm(a, b0, b1 if a else Fraction(0), v),
        numbers,
        numbers,
        numbers,
        squares,
    )


@settings(deadline=None)
@given(
    st.lists(forms_of(near_float, surds | rational_squares), min_size=1, max_size=6),
    st.sampled_from([3, 15, 255]),
    st.sampled_from([0, 7, -100]),
    st.integers(0, 30),
)
def test_thresholds_of_all_channels_are_the_exact_ones(forms, hi, zero_point, bits):
    """Float64 with its bound, whole numbers and square roots against square roots of every threshold."""
    quantizer = Quantizer(Fraction(13421773, 1 << 27), 0, hi, zero_point)
    assert_thresholds(forms, quantizer, -(1 << bits), (1 << bits) - 1)


@settings(deadline=None)
@given(forms_of(anywhere, rational_squares | surds), anywhere.filter(lambda value: value > 0))
def test_thresholds_of_any_size(form, step):
    """Numbers that float64 cannot hold are decided exactly; the slope stays a finite number."""
    assert_thresholds([form], Quantizer(step, -8, 7), -(1 << 31), (1 << 31) - 1)
    stairs = staircases([form], Quantizer(step, -8, 7), np.array([-5]), np.array([5]))
    assert np.isfinite(stairs.slope).all() and bool(form.a) == bool(stairs.slope[0])


@given(st.integers(-(10**6), 10**6), st.integers(1, 10**6), st.integers(2, 10**4))
def test_thresholds_an_ulp_from_an_integer(eta, numerator, denominator):
    """τ is the integer η, or 2^-80 above or below: only exact arithmetic can tell, and it is asked."""
    step, scale = Fraction(1), Fraction(numerator, denominator)
    for shift in (Fraction(0), Fraction(1, 1 << 80), Fraction(-1, 1 << 80)):
        for tie in (Fraction(1, 2), Fraction(3, 2)):
            form = ChannelForm(scale, tie - scale * (eta + shift))
            assert_thresholds([form], Quantizer(step, 0, 3), -(1 << 21), 1 << 21)


@pytest.mark.parametrize("lo", [0, -4])
def test_one_level_and_no_channel(lo):
    assert_thresholds([ChannelForm(Fraction(1))], Quantizer(Fraction(1), lo, lo), -5, 5)
    assert staircases([], Quantizer(Fraction(1), lo, 3), np.array([]), np.array([])).thresholds.size == 0


@given(st.lists(forms_of(near_float, surds | rational_squares), min_size=1, max_size=4), near_float)
def test_slope_is_that_of_the_scale(forms, step):
    step = abs(step) + 1
    stairs = staircases(forms, Quantizer(step, 0, 3), np.full(len(forms), -9), np.full(len(forms), 9))
    assert stairs.slope.tolist() == [slope_of(form, step) for form in forms]


def test_exact_tie_behind_an_irrational_scale():
    """β = ½, σ = √2: at η = μ the value is a tie, whatever σ; even codes take it, odd ones don't."""
    step = Fraction(1)
    mean = Fraction(5)
    for tie, reached_at_mean in ((Fraction(1, 2), False), (Fraction(3, 2), True)):
        form = ChannelForm(Fraction(1)).batch_normed(Fraction(1), tie, mean, Fraction(2))
        code = int(tie + Fraction(1, 2))
        threshold = exact_threshold(form, Quantizer(step, 0, 15), code)
        assert threshold == (5 if reached_at_mean else 6)


def test_codes_at_the_ends_of_the_range():
    form = ChannelForm(Fraction(1, 2))
    stairs = staircases([form], Quantizer(Fraction(1), 0, 15), np.array([2]), np.array([9]))
    low, high = stairs.codes()
    assert (low.tolist(), high.tolist()) == ([1], [4])


def test_thresholds_of_a_vanishing_scale_are_still_exact():
    """α of 2^-260: float64 cannot tell anything, and the square roots decide."""
    tiny = Fraction(1, 1 << 260)
    form = ChannelForm(tiny, Fraction(-3, 7) + 40 * tiny, 3 * tiny, Fraction(2))
    quantizer = Quantizer(Fraction(2, 7), -4, 3)
    bound = 10**4
    assert_thresholds([form], quantizer, -bound, bound)
    assert -bound < slow_thresholds(form, quantizer, -bound, bound)[2] < bound
