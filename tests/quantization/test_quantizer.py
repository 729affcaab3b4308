"""Codes, scales and zero points."""

import numpy as np
import pytest

from aqd_deploy.quantization.quantizer import (
    SMALLEST_SCALE,
    QuantizerParameters,
    channel_limits,
    code_bounds,
    from_range,
    weights_up_to,
)


@pytest.mark.parametrize(
    ("bits", "signed", "bounds"),
    [(8, False, (0, 255)), (4, False, (0, 15)), (8, True, (-128, 127)), (2, True, (-2, 1))],
)
def test_code_bounds(bits, signed, bounds):
    assert code_bounds(bits, signed) == bounds


def test_halves_are_rounded_to_even():
    quantizer = QuantizerParameters(np.float32(1), 4, False)
    assert quantizer.codes(np.array([0.5, 1.5, 2.5, -1, 99])).tolist() == [0, 2, 2, 0, 15]


def test_a_one_sided_range_has_no_zero_point():
    quantizer = from_range(0.5, 3.0, 4, False)
    assert (quantizer.zero_point, float(quantizer.scale)) == (0, pytest.approx(0.2))
    assert quantizer.rounded(np.array([3.0, 0.0])) == pytest.approx([3.0, 0.0])


def test_a_two_sided_range_has_a_code_for_zero():
    quantizer = from_range(-1.0, 2.0, 4, False)
    assert quantizer.zero_point == 5
    assert quantizer.rounded(np.array([0.0, -1.0, 2.0])) == pytest.approx([0.0, -1.0, 2.0])


def test_a_symmetric_range():
    quantizer = from_range(-1.0, 2.0, 4, True)
    assert (quantizer.zero_point, quantizer.low, quantizer.high) == (0, -8, 7)
    assert float(quantizer.scale) == pytest.approx(2 / 7)


@pytest.mark.parametrize("signed", [False, True])
def test_what_is_constant_zero_has_a_scale(signed):
    assert from_range(0.0, 0.0, 8, signed).scale == np.float32(SMALLEST_SCALE)


def test_a_channel_of_zeros_has_the_largest_step_of_the_others():
    weights = np.array([[1.2, -2.0], [0.0, 0.0], [0.5, 0.2]])
    quantizer = weights_up_to(channel_limits(weights, 0), 4)
    assert quantizer.scale.tolist() == pytest.approx([2 / 7, 2 / 7, 0.5 / 7])
    assert quantizer.codes(weights, 0).tolist() == [[4, -7], [0, 0], [7, 3]]


def test_weights_of_zeros_have_a_scale():
    assert weights_up_to(channel_limits(np.zeros((2, 2)), None), 8).scale == pytest.approx(1 / 127)


def test_scales_lie_along_their_axis():
    quantizer = QuantizerParameters(np.array([1, 2], np.float32), 8, True)
    assert quantizer.codes(np.array([[4.0, 4.0], [6.0, 6.0]]), 1).tolist() == [[4, 2], [6, 3]]
