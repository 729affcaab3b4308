"""`minmax`: the range of all values that were seen."""

from __future__ import annotations

import numpy as np

from aqd_deploy.quantization.observe import Observations
from aqd_deploy.quantization.quantizer import (
    QuantizerParameters,
    channel_limits,
    from_range,
    weights_up_to,
)


class MinMax:
    """Nothing is clipped; a single outlier makes the step large for all."""

    histograms = False

    def activation(self, observed: Observations, bits: int, signed: bool) -> QuantizerParameters:
        """From the smallest to the largest value."""
        return from_range(observed.low, observed.high, bits, signed)

    def weight(self, weights: np.ndarray, bits: int, axis: int | None) -> QuantizerParameters:
        """Up to the largest absolute value."""
        return weights_up_to(channel_limits(weights, axis), bits)
