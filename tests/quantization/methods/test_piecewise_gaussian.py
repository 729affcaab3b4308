"""Piecewise Gaussians of densities that are known, and their steps against the best there are."""

import numpy as np
import pytest

from aqd_deploy.densities import Points, fit
from aqd_deploy.quantization.methods.piecewise_gaussian import best_quantizer
from aqd_deploy.quantization.quantizer import code_bounds

GRID = np.linspace(-16, 16, 100_001)
VALUES = 1_000_000


def gaussian(mean, deviation):
    return np.exp(-(((GRID - mean) / deviation) ** 2) / 2) / deviation


DENSITIES = {
    "Gaussian": gaussian(0, 1),
    "Laplace": np.exp(-np.abs(GRID)),
    "half-Gaussian with zeros": np.where(GRID >= 0, gaussian(0, 1), 0),
    "narrow and wide": 0.8 * gaussian(0, 0.3) + 0.2 * gaussian(0, 2),
    "two bumps": gaussian(-1, 0.3) + 0.5 * gaussian(1.5, 0.5),
}


def histogram(name):
    """2,048 bins of as many values as one would see, and the density on the grid within their range."""
    weights = DENSITIES[name] / DENSITIES[name].sum()
    reached = np.cumsum(weights)
    low, high = (GRID[np.searchsorted(reached, share)] for share in (1 / VALUES, 1 - 1 / VALUES))
    low = max(low, 0) if name.startswith("half") else low
    counts, edges = np.histogram(GRID, 2048, (low, high), weights=weights * VALUES)
    if name.startswith("half"):
        counts[0] += VALUES
    return counts, edges, np.where((low <= GRID) & (high >= GRID), weights, 0)


def points_of(values):
    return Points.of_weights(np.array(values, float), None)


def best_step(weights, bits, signed, near):
    """The step of the least squared error, of 400 around `near`."""
    low, high = code_bounds(bits, signed)
    inside = weights > 0
    values, weights = GRID[inside], weights[inside]
    tried = near * np.geomspace(0.5, 2, 400)
    errors = [((values - np.clip(np.rint(values / s), low, high) * s) ** 2 * weights).sum() for s in tried]
    return tried[int(np.argmin(errors))]


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
@pytest.mark.parametrize("name", DENSITIES)
def test_the_step_is_within_two_percent_of_the_best(name, bits):
    counts, edges, weights = histogram(name)
    signed = not name.startswith("half")
    points = Points.of_histogram(counts, edges)
    found = best_quantizer(fit(points)[0].points(), bits, signed)
    best = best_step(weights, bits, signed, float(found.scale))
    assert float(found.scale) == pytest.approx(best, rel=0.02)


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


@pytest.mark.parametrize("values", [[0.0], [0.0, 0.5], [-2.0, 1.0], [1e-30, 2e-30], list(range(-3, 9))])
def test_few_values_have_a_density_too(values):
    fitted = fit(points_of(values))[0]
    points = fitted.points()
    assert points.counts.sum() == pytest.approx(1)
    assert points.values.min() >= min(0, *values) and points.values.max() <= max(0, *values)
    assert np.isfinite(float(best_quantizer(points, 4, min(values) < 0).scale))


def test_channels_are_fitted_by_themselves():
    rng = np.random.default_rng(0)
    weights = rng.laplace(size=(3, 400)) * np.array([[1], [0], [5]])
    together = fit(Points.of_weights(weights, 0))
    assert together[1].atom == 1 and not len(together[1].mass)
    for channel in (0, 2):
        (alone,) = fit(points_of(weights[channel]))
        np.testing.assert_allclose(together[channel].points().values, alone.points().values)
        np.testing.assert_allclose(together[channel].points().counts, alone.points().counts, atol=1e-9)
