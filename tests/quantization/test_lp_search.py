"""The search for quantizers of least Lp error, against brute force."""

import numpy as np
import pytest

from aqd_deploy.densities import Points
from aqd_deploy.quantization.lp_search import CANDIDATES, Candidates, quantizers

POWERS = (1.0, 2.0, 2.4, 6.0)


def lp_error(values, parameters, power, axis=None):
    return (np.abs(values - parameters.rounded(values, axis).astype(np.float64)) ** power).sum()


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("power", POWERS)
def test_one_sided_values_get_the_best_of_all_ranges(bits, power):
    values = np.abs(np.random.default_rng(bits).normal(size=(1, 3000)))
    points = Points(values, np.ones_like(values))
    (found,) = quantizers(points, bits, False, (power,))
    best = min(
        (
            lp_error(
                values, Candidates(each[None], np.zeros((1, 1)), bits, False).parameters(points, None), power
            )
        )
        for each in Candidates.of(points, bits, False).steps
    )
    assert lp_error(values, found, power) == pytest.approx(best, rel=1e-3)
    assert (found.low, found.high, found.zero_point) == (0, 2**bits - 1, 0)


def test_a_high_power_clips_less():
    values = np.random.default_rng(0).laplace(size=(1, 5000))
    scales = [float(q.scale) for q in quantizers(Points(values, np.ones_like(values)), 4, True, POWERS)]
    assert scales == sorted(scales) and scales[-1] > 1.3 * scales[0]


def test_each_channel_of_a_weight_is_searched_by_itself():
    rng = np.random.default_rng(1)
    weights = rng.normal(size=(4, 3, 3, 3)) * np.array([1, 10, 0, 0.1]).reshape(-1, 1, 1, 1)
    (found,) = quantizers(Points.of_weights(weights, 0), 4, True, (2.0,), axis=0)
    for channel in (0, 1, 3):
        (alone,) = quantizers(Points.of_weights(weights[channel], None), 4, True, (2.0,))
        assert found.scale[channel] == alone.scale
    assert found.scale[2] == found.scale.max()


def test_weights_along_another_axis():
    weights = np.random.default_rng(2).normal(size=(5, 3, 2, 2))
    (found,) = quantizers(Points.of_weights(weights, 1), 4, True, (2.0,), axis=1)
    (turned,) = quantizers(Points.of_weights(np.moveaxis(weights, 1, 0), 0), 4, True, (2.0,), axis=0)
    np.testing.assert_array_equal(found.scale, turned.scale)


def test_values_of_both_signs_get_a_zero_point_that_fits_them():
    values = np.random.default_rng(3).uniform(-1, 3, size=(1, 4000))
    (found,) = quantizers(Points(values, np.ones_like(values)), 4, False, (2.0,))
    assert found.zero_point in (3, 4) and float(found.scale) == pytest.approx(4 / 15, rel=0.08)


def test_zero_points_are_at_most_thirty_two():
    values = np.array([[-1.0, 1.0]])
    steps = Candidates.of(Points(values, np.ones_like(values)), 8, False).steps
    assert len(steps) == 32 * CANDIDATES


def test_a_histogram_is_searched_like_its_values():
    values = np.abs(np.random.default_rng(4).normal(size=20000))
    counts, edges = np.histogram(values, 2048, (0, values.max()))
    (binned,) = quantizers(Points.of_histogram(counts, edges), 4, False, (2.4,))
    (exact,) = quantizers(Points(values[None], np.ones((1, len(values)))), 4, False, (2.4,))
    assert float(binned.scale) == pytest.approx(float(exact.scale), rel=0.011)


def test_zeros_of_a_histogram_stand_at_zero():
    values = np.append(np.zeros(5000), np.linspace(0.0005, 1, 2000))
    counts, edges = np.histogram(values, 100, (0, 1))
    points = Points.of_histogram(counts, edges)
    assert points.counts[points.values == 0].sum() == pytest.approx(5000, abs=2)
    assert points.counts.sum() == len(values)


@pytest.mark.parametrize("edges", [(1.0, 2.0), (-2.0, -1.0)])
def test_no_zeros_are_found_where_no_bin_holds_zero(edges):
    counts = np.array([9, 1, 1])
    points = Points.of_histogram(counts, np.linspace(*edges, 4))
    assert points.counts[points.values == 0].sum() == 0


def test_zeros_alone_get_some_positive_scale():
    points = Points(np.zeros((1, 4)), np.ones((1, 4)))
    assert all(float(q.scale) > 0 for q in quantizers(points, 8, True, POWERS))
