"""`percentile`: the range without its outermost values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aqd_deploy.quantization.observe import Observations
from aqd_deploy.quantization.quantizer import QuantizerParameters, from_range, weights_up_to


@dataclass(frozen=True)
class Percentile:
    """`percent` of the values lie within the range, on each side of it for itself."""

    percent: float
    histograms = True

    def activation(self, observed: Observations, bits: int, signed: bool) -> QuantizerParameters:
        """By the histogram, between whose edges values are taken to be spread evenly."""
        below = np.concatenate([[0.0], np.cumsum(observed.counts)]) / max(observed.counts.sum(), 1)
        share = self.percent / 100
        low = np.interp(1 - share, below, observed.edges) if observed.low < 0 else 0.0
        high = np.interp(share, below, observed.edges)
        return from_range(float(low), float(high), bits, signed)

    def weight(self, weights: np.ndarray, bits: int, axis: int | None) -> QuantizerParameters:
        """By the absolute weights themselves."""
        sizes = np.abs(weights.astype(np.float64))
        others = None if axis is None else tuple(i for i in range(weights.ndim) if i != axis)
        return weights_up_to(np.quantile(sizes, self.percent / 100, axis=others), bits)
