"""`mse`: the range of least Lp error, with one power p for the whole network; 2 is the mean square."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aqd_deploy.densities import Points
from aqd_deploy.quantization.lp_search import quantizers
from aqd_deploy.quantization.observe import Observations
from aqd_deploy.quantization.quantizer import QuantizerParameters


@dataclass(frozen=True)
class Mse:
    """`power` is p. A larger one clips less."""

    power: float
    histograms = True

    def activation(self, observed: Observations, bits: int, signed: bool) -> QuantizerParameters:
        """By the histogram."""
        points = Points.of_histogram(observed.counts, observed.edges)
        return quantizers(points, bits, signed, (self.power,))[0]

    def weight(self, weights: np.ndarray, bits: int, axis: int | None) -> QuantizerParameters:
        """By the weights themselves, each channel's by themselves."""
        return quantizers(Points.of_weights(weights, axis), bits, True, (self.power,), axis)[0]
