"""The interval and the step of each tensor by a density made of pieces of Gaussians that is fitted to it.

Source of the idea, pieces and estimator: `aqd_deploy.densities`. How interval and step follow is ours: those
of the least expected squared error under the density, of all steps; the interval is the step times the codes.
Nothing depends on single extreme values, but on their mass. Networks are trained by the same density in
`aqd_deploy.qat.gaussian_quantizers`.
"""

from __future__ import annotations

import numpy as np

from aqd_deploy.densities import Points, fit, together
from aqd_deploy.quantization.lp_search import Candidates
from aqd_deploy.quantization.observe import Observations
from aqd_deploy.quantization.quantizer import QuantizerParameters

REFINEMENTS = 2


def best_quantizer(points: Points, bits: int, signed: bool, axis: int | None = None) -> QuantizerParameters:
    """The quantizer of the least expected squared error under densities, one a channel: of 100 ranges, then
    twice of what lies between the neighbours of the best, ten times finer.
    """
    tried = Candidates.of(points, bits, signed)
    spacing = tried.steps[0]
    for _ in range(REFINEMENTS):
        best = tried.best(tried.errors(points, (2.0,))[0])
        finer = best.steps + np.outer(np.linspace(-0.9, 0.9, 19), spacing)
        tried = Candidates(finer, best.zero_points + np.zeros_like(finer), bits, signed)
        spacing = spacing / 10
    return tried.best(tried.errors(points, (2.0,))[0]).parameters(points, axis)


class PiecewiseGaussian:
    """Interval and step of each tensor by the density that is fitted to it."""

    histograms = True

    def activation(self, observed: Observations, bits: int, signed: bool) -> QuantizerParameters:
        """By the histogram."""
        points = Points.of_histogram(observed.counts, observed.edges)
        return best_quantizer(fit(points)[0].points(), bits, signed)

    def weight(self, weights: np.ndarray, bits: int, axis: int | None) -> QuantizerParameters:
        """By the weights themselves, each channel's by themselves."""
        points = Points.of_weights(weights, axis)
        densities = [each.points() for each in fit(points)]
        return best_quantizer(together(densities), bits, True, axis)
