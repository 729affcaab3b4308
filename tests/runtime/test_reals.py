"""Real numbers and the integers that stand for them."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from aqd_deploy.errors import AqdError, ScaleError
from aqd_deploy.runtime.reals import dequantized, quantized

SHAPE = (1, 3, 2, 2)


def test_half_goes_to_even_and_what_is_beyond_saturates():
    values = np.array([0.25, 0.75, 1.25, -0.25, 1e9, -np.inf], np.float32).reshape(1, 1, 2, 3)
    codes = quantized("x", values, {"scale": 0.5, "zero_point": 10}, "uint8")
    assert codes.dtype == np.uint8
    assert codes.ravel().tolist() == [10, 12, 12, 10, 255, 0]
    signed = quantized("x", values, {"scale": 0.5, "zero_point": -3}, "int8")
    assert signed.ravel().tolist() == [-3, -1, -1, -3, 127, -128]


@pytest.mark.parametrize("seed", range(4))
def test_codes_are_those_of_exact_arithmetic(seed):
    """Floats around half-way points of awkward scales, against fractions."""
    generator = np.random.default_rng(seed)
    scale = np.float32(generator.uniform(1e-4, 3))
    middle = ((generator.integers(-130, 130, 300) + 0.5) * scale).astype(np.float32)
    values = np.nextafter(middle, generator.choice(np.array([-9e9, 0, 9e9], np.float32), 300))
    expected = [
        min(max(round(Fraction(float(v)) / Fraction(float(scale))) + 128, 0), 255) for v in values.tolist()
    ]
    got = quantized("x", values.reshape(1, 1, 1, -1), _entry(float(scale), 128), "uint8")
    assert got.ravel().tolist() == expected


def _entry(scale, zero_point, **more):
    return {"scale": scale, "zero_point": zero_point, **more}


def test_scales_of_channels():
    entry = _entry([1.0, 2.0, 4.0], [0, 1, 2])
    codes = quantized("x", np.full(SHAPE, 8.0, np.float16), entry, "int8")
    assert codes[0, :, 0, 0].tolist() == [8, 5, 4]
    assert (dequantized("x", codes, entry) == 8).all()


def test_an_output_without_a_zero_point_has_it_at_zero():
    assert dequantized("y", np.array([[[[-3]]]], np.int32), {"scale": 0.5}).item() == -1.5


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: quantized("x", np.full(SHAPE, np.nan), _entry(1, 0), "uint8"), AqdError, "NaN"),
        (lambda: quantized("x", np.ones(SHAPE), _entry([1, 2], 0), "uint8"), ScaleError, "got 2"),
        (lambda: dequantized("y", np.ones(SHAPE, np.int32), {}), ScaleError, "y has no scale"),
        (lambda: dequantized("y", np.ones(SHAPE, np.int32), _entry(1, [1, 2])), ScaleError, "zero_point"),
    ],
)
def test_what_has_no_meaning_is_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()
