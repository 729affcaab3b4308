"""Requantized sums: the codes of all pairs in exact numbers, the constants, and the count of deviations."""

from fractions import Fraction

import numpy as np
import pytest

from aqd_deploy.integer.staircase import Quantizer
from aqd_deploy.integer.sums import Codes, pair_codes, solve_sum


def random_sum(seed, signed=False):
    """Operands, offset and quantizer of a sum with float32 scales, as a quantizer would choose them."""
    rng = np.random.default_rng(seed)
    a, b = (Fraction(float(np.float32(v))) for v in rng.uniform(0.005, 0.05, 2))
    step = Fraction(float(np.float32(float(a + b) * rng.uniform(0.6, 1.1))))
    zeros = rng.integers(0, 256, 3).tolist()
    low, high = (-128, 127) if signed else (0, 255)
    zeros = [zero + low for zero in zeros]
    operands = [Codes(scale / step, low, high) for scale in (a, b)]
    return operands, -(a * zeros[0] + b * zeros[1]) / step, Quantizer(step, low, high, zeros[2])


def exact_codes(first, second, offset, quantizer):
    rows = [a * first.slope + offset for a in range(first.lo, first.hi + 1)]
    columns = [b * second.slope for b in range(second.lo, second.hi + 1)]
    codes = [[quantizer.code((row + column) * quantizer.step) for column in columns] for row in rows]
    return np.array(codes)


def computed(solution, first, second, quantizer):
    a = np.arange(first.lo, first.hi + 1)[:, None]
    b = np.arange(second.lo, second.hi + 1)[None, :]
    sums = solution.left * a + solution.right * b + solution.offset
    assert solution.sums == (sums.min(), sums.max()) and np.abs(sums).max() < 1 << 31
    return np.clip(sums >> solution.shift, quantizer.lo, quantizer.hi)


@pytest.mark.parametrize("seed", range(60))
def test_random_sums_are_proven(seed):
    (first, second), offset, quantizer = random_sum(seed, seed % 2 == 1)
    solution = solve_sum(first, second, offset, quantizer)
    assert solution.deviations == 0
    wanted = pair_codes(first, second, offset, quantizer)
    assert np.array_equal(computed(solution, first, second, quantizer), wanted)
    assert solution.codes == (wanted.min(), wanted.max())


@pytest.mark.parametrize("seed", range(3))
def test_codes_of_pairs_are_exact(seed):
    (first, second), offset, quantizer = random_sum(seed)
    assert np.array_equal(
        pair_codes(first, second, offset, quantizer), exact_codes(first, second, offset, quantizer)
    )


def test_ties_are_even():
    """Halves of whole numbers: every odd sum is a tie, which goes up and down in turn."""
    half, quantizer = Codes(Fraction(1, 2), 0, 15), Quantizer(Fraction(1), -100, 100)
    codes = pair_codes(half, half, Fraction(0), quantizer)
    assert np.array_equal(codes, exact_codes(half, half, Fraction(0), quantizer))
    assert codes[0, 1] == 0 and codes[1, 2] == 2 and codes[2, 3] == 2


def test_deviations_are_counted_where_no_constants_are_right():
    """Ties that go up and down in turn are no floor of any linear function."""
    half, quantizer = Codes(Fraction(1, 2), 0, 15), Quantizer(Fraction(1), -100, 100)
    solution = solve_sum(half, half, Fraction(0), quantizer)
    wanted = exact_codes(half, half, Fraction(0), quantizer)
    off = np.abs(computed(solution, half, half, quantizer) - wanted)
    assert solution.deviations == off.sum() > 0 and off.max() == 1


@pytest.mark.parametrize(
    ("left", "right"), [(Fraction(-3, 7), Fraction(5, 11)), (Fraction(0), Fraction(1, 3)), (Fraction(9), -9)]
)
def test_negative_zero_and_large_slopes(left, right):
    first, second = Codes(left, 0, 40), Codes(Fraction(right), -20, 20)
    quantizer = Quantizer(Fraction(1), -128, 127, 3)
    solution = solve_sum(first, second, Fraction(1, 5), quantizer)
    wanted = exact_codes(first, second, Fraction(1, 5), quantizer)
    assert solution.deviations == 0
    assert np.array_equal(computed(solution, first, second, quantizer), wanted)


def test_one_code_has_any_constants():
    codes, quantizer = Codes(Fraction(1, 9), 0, 255), Quantizer(Fraction(1), 7, 7)
    assert solve_sum(codes, codes, Fraction(0), quantizer).codes == (7, 7)


def test_slopes_beyond_int32_have_none():
    steep = Codes(Fraction(1 << 40), 0, 255)
    assert solve_sum(steep, steep, Fraction(0), Quantizer(Fraction(1), 0, 255)) is None
