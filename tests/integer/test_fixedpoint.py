"""Multiply-shift and its constants against exact rationals; tolerance zero."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aqd_deploy.integer.domain import PRODUCT_LIMIT
from aqd_deploy.integer.fixedpoint import (
    MultiplyShift,
    ms,
    solve_requantize,
    solve_requantize_channels,
    solve_scale,
)
from aqd_deploy.integer.rational import ChannelForm
from aqd_deploy.integer.staircase import Quantizer, staircases

INT32 = st.one_of(
    st.integers(-(2**31), 2**31 - 1), st.sampled_from([-(2**31), -(2**31) + 1, -1, 0, 1, 2**31 - 1])
)
C31 = st.integers(-(2**31) + 1, 2**31 - 1)


@given(INT32, C31, st.integers(-(2**61), 2**61), st.integers(0, 62))
def test_multiply_shift_is_the_floor(eta, c, b, d):
    exact = Fraction(eta * c + b, 1 << d)
    value = ms(eta, c, b, d)
    assert value <= exact < value + 1


@given(INT32, st.integers(1, 62))
def test_multiply_shift_rounds_ties_up_with_the_half(eta, d):
    """c = 1, B = 2^(d−1): the nearest integer, halves towards +∞; negative ties included."""
    assert ms(eta, 1, 1 << (d - 1), d) == (2 * eta + (1 << d)) // (1 << (d + 1))


def test_fits_names_the_bounds_of_the_dialect():
    assert MultiplyShift((1 << 31) - 1, 0, 62).fits(-(1 << 31) + 1, (1 << 31) - 1)
    assert not MultiplyShift(1 << 31, 0, 0).fits(0, 1)
    assert not MultiplyShift(1, 0, 63).fits(0, 1)
    assert not MultiplyShift(1, PRODUCT_LIMIT, 0).fits(0, 1)
    assert not MultiplyShift(-1, -PRODUCT_LIMIT + 1, 0).fits(0, 1)


def test_fits_32_needs_product_and_sum():
    assert MultiplyShift(2, 5, 3).fits_32(-100, 100)
    assert not MultiplyShift(1 << 20, 0, 3).fits_32(0, 1 << 12)
    assert not MultiplyShift(1, 1 << 31, 3).fits_32(0, 1)


ranges = st.tuples(st.integers(-150, 0), st.integers(0, 150))
ratios = st.fractions(min_value=-3, max_value=3, max_denominator=300)
offsets = st.fractions(min_value=-300, max_value=300, max_denominator=50)
clips = st.sampled_from([(0, 3), (0, 7), (0, 15), (-8, 7), (0, 255), (-128, 127)])


@settings(max_examples=150)
@given(ratios, offsets, ranges, clips)
def test_requantize_counts_its_deviations_exactly(ratio, offset, eta_range, clip):
    """Every η of the range, against round-half-even of the rational; 0 deviations means equal."""
    lo, hi = clip
    constants, deviations = solve_requantize(ratio, offset, *eta_range, lo, hi)
    off = 0
    for eta in range(eta_range[0], eta_range[1] + 1):
        level = min(max(constants(eta), lo), hi)
        off += abs(level - min(max(round(eta * ratio + offset), lo), hi))
    assert off == deviations
    assert constants.fits(*eta_range)


@given(st.integers(3, 40), st.integers(-500, 500), st.sampled_from([1, -1]))
def test_narrow_stairs_always_have_exact_constants(spacing, offset, sign):
    """Steps of three or more integers and no ties: constants exist."""
    ratio = Fraction(sign * 1000, spacing * 1000 + 7)
    _, deviations = solve_requantize(ratio, Fraction(offset, 13), -400, 400, 0, 15)
    assert deviations == 0


def test_ties_can_rule_out_constants_and_are_counted():
    """round_half_even(η/2) takes 0, 0, 1, 2, 2, 2, 3, 4: no line has these floors."""
    constants, deviations = solve_requantize(Fraction(1, 2), Fraction(0), 0, 15, 0, 15)
    got = [min(max(constants(eta), 0), 15) for eta in range(16)]
    expected = [round(Fraction(eta, 2)) for eta in range(16)]
    assert deviations == sum(abs(a - b) for a, b in zip(got, expected, strict=True)) > 0


@pytest.mark.parametrize(
    ("ratio", "offset", "level"), [(0, Fraction(7, 2), 4), (0, -3, 0), (Fraction(1, 10**9), Fraction(5), 5)]
)
def test_constant_channels(ratio, offset, level):
    """γ = 0, and γ so small that the range never reaches another level."""
    constants, deviations = solve_requantize(Fraction(ratio), Fraction(offset), -1000, 1000, 0, 15)
    assert deviations == 0
    assert {min(max(constants(eta), 0), 15) for eta in (-1000, 0, 1000)} == {level}


def test_steeper_than_one_level_an_integer():
    constants, deviations = solve_requantize(Fraction(100), Fraction(-30), -3, 3, 0, 255)
    assert deviations == 0
    assert [min(max(constants(eta), 0), 255) for eta in (-3, 0, 1, 2, 3)] == [0, 0, 70, 170, 255]


def random_stairs(steps, bound, channels=60):
    """Channels with batch norm whose window covers a part of ±bound; γ of either sign."""
    rng = np.random.default_rng(steps)
    forms = [
        ChannelForm(
            Fraction(float(np.float32(2 * steps / bound * rng.uniform(0.1, 5)))) * int(rng.choice([1, -1])),
            Fraction(float(np.float32(rng.normal()))),
            Fraction(float(np.float32(rng.normal()))),
            Fraction(float(np.float32(rng.uniform(0.1, 2)))),
        )
        for _ in range(channels)
    ]
    lo, hi = np.full(channels, -bound), np.full(channels, bound)
    return staircases(forms, Quantizer(Fraction(11, 10), 0, steps), lo, hi)


@pytest.mark.parametrize("steps", [3, 15, 255])
@pytest.mark.parametrize("bound", [300, 5 * 10**5, 2**31 - 1])
def test_claims_of_random_channels_hold_at_every_threshold(steps, bound):
    """A staircase is its thresholds: proven constants step exactly there; the others' deviations add up."""
    stairs = random_stairs(steps, bound)
    solution = solve_requantize_channels(stairs)
    for channel, constants in enumerate(solution):
        assert constants.fits(-bound, bound)
        sign, off = int(stairs.sign[channel]), 0
        for level, threshold in enumerate(stairs.thresholds[channel].tolist(), 1):
            actual = first_reaching(constants, sign, level, -bound, bound)
            off += abs(actual - threshold)
        assert off == solution.deviations[channel]
        assert solution.proven[channel] == (off == 0)


def first_reaching(constants, sign, level, lo, hi):
    """The smallest sign·η in [lo, hi] with at least that level, hi + 1 if none has: by bisection."""
    while lo <= hi:
        middle = (lo + hi) // 2
        if constants(sign * middle) >= level:
            hi = middle - 1
        else:
            lo = middle + 1
    return lo


@pytest.mark.parametrize("steps", [3, 15, 255])
def test_random_channels_within_half_a_million_are_proven(steps):
    """The range of 4-bit 3x3x256 accumulators."""
    assert all(solve_requantize_channels(random_stairs(steps, 5 * 10**5)).proven)


@pytest.mark.parametrize("steps", [1, 3, 15, 255])
@pytest.mark.parametrize("exponent", [-400, -150, -60, -37, -33, 23, 24, 31, 32, 60, 149, 400, 1100])
@pytest.mark.parametrize("bound", [1, 300, 2**31 - 1])
def test_slopes_that_no_multiplier_has_are_proven_by_others(exponent, steps, bound):
    """Denormal steps: all levels change within one integer, or at most one level within the range."""
    alpha = Fraction(2) ** exponent * Fraction(5, 7)
    offsets = [Fraction(0), Fraction(1, 3), Fraction(1, 2), -alpha * 17, -alpha / 2, Fraction(steps) - alpha]
    forms = [ChannelForm(sign * alpha, offset) for offset in offsets for sign in (1, -1)]
    quantizer, ends = Quantizer(Fraction(1), 0, steps), np.full(len(forms), bound)
    stairs = staircases(forms, quantizer, -ends, ends)
    solution = solve_requantize_channels(stairs)
    assert all(solution.proven)
    for form, constants in zip(forms, solution, strict=True):
        assert constants.fits(-bound, bound)
        near = {round(-form.b0 / form.a) + i for i in range(-3, 4)} | {-bound, -1, 0, 1, bound}
        for eta in (eta for eta in near if abs(eta) <= bound):
            assert min(max(constants(eta), 0), steps) == quantizer.level(eta * form.a + form.b0)


@pytest.mark.parametrize("level", [0, 3, 255])
def test_a_quantizer_of_one_level_is_a_constant(level):
    forms = [ChannelForm(Fraction(1, 7), Fraction(2)), ChannelForm(Fraction(0))]
    ends = np.full(2, 1000)
    solution = solve_requantize_channels(staircases(forms, Quantizer(Fraction(1), level, level), -ends, ends))
    assert solution.constants == [MultiplyShift(0, level, 0)] * 2
    assert solution.proven == [True, True]


def test_fewer_bits_deviate_and_say_so():
    """c of 4 bits can't follow 255 steps; the count is the exhaustive one."""
    form, quantizer = ChannelForm(Fraction(1, 79)), Quantizer(Fraction(1), 0, 255)
    stairs = staircases([form], quantizer, np.array([-100]), np.array([21000]))
    solution = solve_requantize_channels(stairs, c_bits=4)
    m = solution.constants[0]
    off = sum(abs(min(max(m(eta), 0), 255) - quantizer.level(eta * form.a)) for eta in range(-100, 21001))
    assert off == solution.deviations[0] > 0
    assert not solution.proven[0]


def test_power_of_two_has_multiplier_one():
    form = ChannelForm(Fraction(1, 80))
    stairs = staircases([form], Quantizer(Fraction(1), 0, 15), np.array([-2000]), np.array([2000]))
    solution = solve_requantize_channels(stairs, power_of_two=True)
    assert solution.constants[0].c == 1
    assert solution.deviations[0] > 0


@given(
    st.fractions(min_value=Fraction(-1000), max_value=1000, max_denominator=10**9),
    st.fractions(min_value=-(10**6), max_value=10**6, max_denominator=10**6),
    st.integers(-(10**5), 0),
    st.integers(0, 10**5),
    st.data(),
)
def test_scale_error_is_a_bound(ratio, offset, lo, hi, data):
    """|ms(η) − (η·ratio + offset)| ≤ error for any η of the range, ends included."""
    solution = solve_scale(ratio, offset, lo, hi)
    assert solution.constants.fits(lo, hi)
    for eta in (lo, hi, data.draw(st.integers(lo, hi))):
        assert abs(solution.constants(eta) - (eta * ratio + offset)) <= Fraction(solution.error)


@given(st.fractions(min_value=Fraction(1, 1000), max_value=1000, max_denominator=1000))
def test_scale_is_the_best_multiplier_within_31_bits(ratio):
    """No c' / 2^d' with 31 bits is nearer (Eq. 8)."""
    m = solve_scale(ratio, Fraction(0), -100, 100).constants
    error = abs(ratio - Fraction(m.c, 1 << m.d))
    for d in range(0, 45):
        c = round(ratio * (1 << d))
        if 0 < c < 1 << 31:
            assert error <= abs(ratio - Fraction(c, 1 << d))


def test_scale_of_equal_scales_is_the_identity():
    assert solve_scale(Fraction(1), Fraction(0), -(10**8), 10**8).constants == MultiplyShift(1, 0, 0)
    assert solve_scale(Fraction(1), Fraction(0), -5, 5).error == 0


def test_scale_by_powers_of_two():
    up = solve_scale(Fraction(7, 2), Fraction(0), -5, 5, power_of_two=True)
    down = solve_scale(Fraction(1, 5), Fraction(0), -5, 5, power_of_two=True)
    assert up.constants == MultiplyShift(4, 0, 0)
    assert down.constants == MultiplyShift(1, 2, 2)


def test_scale_beyond_the_budget_is_refused():
    with pytest.raises(OverflowError):
        solve_scale(Fraction(2**40), Fraction(0), -5, 5)


@pytest.mark.parametrize("ratio", [Fraction(1, 2**49), Fraction(-1, 2**63), Fraction(1, 10**70)])
def test_a_term_that_vanishes_becomes_zero(ratio):
    """As one power of two with its offset it would leave 62 bits."""
    solution = solve_scale(ratio, Fraction(40_000_001, 2), -9225, 6975, power_of_two=True)
    assert solution.constants == MultiplyShift(0, 20_000_000, 0)
    assert 0.5 <= solution.error < 0.5001
