"""Pieces of Gaussians fitted to densities that are known."""

import numpy as np
import pytest
from known_densities import DENSITIES, histogram

from aqd_deploy.densities import Points, fit


def points_of(values):
    return Points.of_weights(np.array(values, float), None)


@pytest.mark.parametrize("name", DENSITIES)
def test_the_density_has_the_moments_of_its_values(name):
    counts, edges, _ = histogram(name)
    points = Points.of_histogram(counts, edges)
    fitted = fit(points)[0].points()
    for power in (0, 1, 2):
        expected = (points.values**power * points.counts).sum() / points.counts.sum()
        assert (fitted.values**power * fitted.counts).sum() == pytest.approx(expected, rel=2e-3, abs=2e-3)


def test_a_gaussian_is_one_gaussian_in_every_piece():
    counts, edges, _ = histogram("Gaussian")
    points = Points.of_histogram(counts, edges)
    fitted = fit(points)[0]
    half = (fitted.right - fitted.left) / 2
    heavy = fitted.mass > 0.01
    deviation = half / np.sqrt(-2 * fitted.curvature.clip(max=-1e-9))
    mean = (fitted.left + fitted.right) / 2 + deviation**2 * fitted.slope / half
    np.testing.assert_allclose(deviation[heavy], 1, rtol=0.05)
    np.testing.assert_allclose(mean[heavy], 0, atol=0.05)


def test_zeros_are_an_atom():
    fitted = fit(points_of(np.append(np.zeros(900), np.linspace(0.1, 1, 100))))[0]
    assert fitted.atom == pytest.approx(0.9) and fitted.mass.sum() == pytest.approx(0.1)


def test_equal_values_stay_in_one_piece():
    rng = np.random.default_rng(0)
    fitted = fit(points_of(np.repeat([-0.5, -0.25, 0.25, 0.5, 1.0], 200) * rng.choice([1, 0.5], 1000)))[0]
    assert (fitted.right > fitted.left).all() and np.isfinite(fitted.slope).all()
    assert fitted.points().counts.sum() == pytest.approx(1)


@pytest.mark.parametrize("values", [[0.0], [0.0, 0.5], [-2.0, 1.0], [1e-30, 2e-30], list(range(-3, 9))])
def test_few_values_have_a_density_too(values):
    fitted = fit(points_of(values))[0]
    points = fitted.points()
    assert points.counts.sum() == pytest.approx(1)
    assert points.values.min() >= min(0, *values) and points.values.max() <= max(0, *values)


def test_channels_are_fitted_by_themselves():
    rng = np.random.default_rng(0)
    weights = rng.laplace(size=(3, 400)) * np.array([[1], [0], [5]])
    together = fit(Points.of_weights(weights, 0))
    assert together[1].atom == 1 and not len(together[1].mass)
    for channel in (0, 2):
        (alone,) = fit(points_of(weights[channel]))
        np.testing.assert_allclose(together[channel].points().values, alone.points().values)
        np.testing.assert_allclose(together[channel].points().counts, alone.points().counts, atol=1e-9)
