"""Learned rounding of one layer's weights, against all roundings there are."""

import itertools

import numpy as np
import pytest

from aqd_deploy.quantization.quantizer import QuantizerParameters
from aqd_deploy.quantization.rounding import Inputs, learned_codes


def parameters(scale, bits=4):
    return QuantizerParameters(np.asarray(scale, np.float32), bits, True)


def inputs_of(rng, groups, size, positions=200, noise=0.0):
    """Inputs whose entries hang together, as those of neighbouring pixels do."""
    x = rng.normal(size=(groups, size, positions)) + 2 * rng.normal(size=(groups, 1, positions))
    return x, x + noise * rng.normal(size=x.shape)


def squared_error(weights, rounded, x, y):
    return ((weights @ x - rounded @ y) ** 2).sum(axis=-1)


def test_the_error_is_that_of_the_outputs():
    rng = np.random.default_rng(0)
    x, y = inputs_of(rng, 2, 5, noise=0.3)
    weights, rounded = rng.normal(size=(2, 3, 5)), rng.normal(size=(2, 3, 5))
    halves = [Inputs.of(x[..., k::2], y[..., k::2]) for k in (0, 1)]
    found = (halves[0] + halves[1]).error(weights, rounded)
    np.testing.assert_allclose(found, squared_error(weights, rounded, x, y))


@pytest.mark.parametrize("seed", range(4))
def test_few_weights_are_rounded_nearly_as_well_as_they_can_be(seed):
    rng = np.random.default_rng(seed)
    weights, q = rng.normal(size=(3, 8)).astype(np.float32), parameters([0.5, 0.4, 0.3])
    x, y = inputs_of(rng, 1, 8, noise=0.1)
    codes = learned_codes(weights, q, Inputs.of(x, y), 400)
    scale = q.scale[:, None].astype(np.float64)
    below = np.floor(weights / scale)
    every = np.array(list(itertools.product((0, 1), repeat=8)))
    for channel in range(3):
        tried = np.clip(below[channel] + every, q.low, q.high) * scale[channel]
        errors = squared_error(weights[channel][None, None], tried[:, None], x, y)[:, 0]
        nearest = squared_error(weights[channel], q.rounded(weights, 0)[channel], x[0], y[0])
        own = squared_error(weights[channel], codes[channel] * scale[channel], x[0], y[0])
        assert errors.min() - 1e-4 <= own <= nearest + 1e-4
        assert own - errors.min() <= max(0.2 * (nearest - errors.min()), 0.02 * nearest)


@pytest.mark.parametrize("shape", [(6, 4, 3, 3), (6, 2, 3, 3), (6, 4)])
def test_codes_are_neighbours_of_the_weights_and_better_together(shape):
    rng = np.random.default_rng(5)
    weights, q = rng.normal(size=shape).astype(np.float32), parameters(np.full(6, 0.6), 3)
    groups = 2 if shape[1] == 2 else 1
    x, y = inputs_of(rng, groups, int(np.prod(shape[1:])))
    codes = learned_codes(weights, q, Inputs.of(x, y), 200)
    assert codes.shape == shape and codes.min() >= q.low and codes.max() <= q.high
    inside = (weights / 0.6 > q.low) & (weights / 0.6 < q.high)
    assert np.abs(codes - weights / np.float32(0.6))[inside].max() < 1
    grouped = (groups, 6 // groups, -1)
    before = squared_error(weights.reshape(grouped), q.rounded(weights, 0).reshape(grouped), x, y)
    after = squared_error(weights.reshape(grouped), (codes * q.scale[0]).reshape(grouped), x, y)
    assert (after <= before * (1 + 1e-6)).all() and after.sum() < 0.7 * before.sum()


def test_the_same_codes_come_out_again():
    rng = np.random.default_rng(6)
    weights, inputs = rng.normal(size=(4, 9)).astype(np.float32), Inputs.of(*inputs_of(rng, 1, 9))
    first, second = (learned_codes(weights, parameters(0.5), inputs, 50) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("positions", [0, 1])
def test_inputs_that_say_little_leave_the_nearest_codes_or_better(positions):
    weights, q = np.array([[0.26, -0.7, 0.1]], np.float32), parameters(0.5)
    x = np.ones((1, 3, positions))
    codes = learned_codes(weights, q, Inputs.of(x, x), 50)
    if positions == 0:
        np.testing.assert_array_equal(codes, q.codes(weights, 0))
    nearest = abs((weights - q.rounded(weights, 0)).sum())
    assert abs((weights - codes * q.scale).sum()) <= nearest + 1e-6
