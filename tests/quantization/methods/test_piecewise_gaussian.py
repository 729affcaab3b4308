"""The steps of piecewise Gaussians of densities that are known, against the best there are."""

import numpy as np
import pytest
from known_densities import DENSITIES, GRID, histogram

from aqd_deploy.densities import Points, fit
from aqd_deploy.quantization.methods.piecewise_gaussian import best_quantizer
from aqd_deploy.quantization.quantizer import code_bounds


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


@pytest.mark.parametrize("values", [[0.0], [0.0, 0.5], [-2.0, 1.0], [1e-30, 2e-30], list(range(-3, 9))])
def test_few_values_have_a_step_too(values):
    points = fit(Points.of_weights(np.array(values, float), None))[0].points()
    assert np.isfinite(float(best_quantizer(points, 4, min(values) < 0).scale))
