"""The thresholds of a quantizer against the quantizer itself, over every integer of a small range."""

from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from aqd_deploy.integer.rational import ChannelForm
from aqd_deploy.integer.staircase import Quantizer, exact_threshold, staircases, thresholds

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
        assert reached == quantizer.level(eta * form.alpha() + form.beta())


@given(
    st.integers(1, 10**6),
    st.integers(-(10**6), 10**6),
    st.integers(-(10**6), 10**6),
    st.fractions(min_value=Fraction(1, 10**6), max_value=100, max_denominator=10**6),
    st.sampled_from([3, 15]),
)
def test_fast_thresholds_are_the_exact_ones(a, b0, b1, v, hi):
    """The 128-bit positions with their fallback against square roots of every threshold."""
    form = ChannelForm(Fraction(a, 1 << 24), Fraction(b0, 1 << 20), Fraction(b1, 1 << 20), v)
    quantizer = Quantizer(Fraction(13421773, 1 << 27), 0, hi)
    bound = 10**6
    for level, threshold in enumerate(thresholds(form, quantizer, -bound, bound), 1):
        assert threshold == min(max(exact_threshold(form, quantizer, level), -bound), bound + 1)


def test_exact_tie_behind_an_irrational_scale():
    """β = ½, σ = √2: at η = μ the value is a tie, whatever σ; even levels take it, odd ones don't."""
    step = Fraction(1)
    mean = Fraction(5)
    for tie, reached_at_mean in ((Fraction(1, 2), False), (Fraction(3, 2), True)):
        form = ChannelForm(Fraction(1)).batch_normed(Fraction(1), tie, mean, Fraction(2))
        level = int(tie + Fraction(1, 2))
        threshold = exact_threshold(form, Quantizer(step, 0, 15), level)
        assert threshold == (5 if reached_at_mean else 6)


def test_levels_at_the_ends_of_the_range():
    form = ChannelForm(Fraction(1, 2))
    stairs = staircases([form], Quantizer(Fraction(1), 0, 15), np.array([2]), np.array([9]))
    low, high = stairs.levels()
    assert (low.tolist(), high.tolist()) == ([1], [4])


def test_thresholds_of_a_vanishing_scale_are_still_exact():
    """α of 2^-260: positions lose all their fractional bits, and the square roots decide."""
    tiny = Fraction(1, 1 << 260)
    form = ChannelForm(tiny, Fraction(-3, 7) + 40 * tiny, 3 * tiny, Fraction(2))
    quantizer = Quantizer(Fraction(2, 7), -4, 3)
    bound = 10**4
    for level, threshold in enumerate(thresholds(form, quantizer, -bound, bound), quantizer.lo + 1):
        assert threshold == min(max(exact_threshold(form, quantizer, level), -bound), bound + 1)
    assert -bound < thresholds(form, quantizer, -bound, bound)[2] < bound
