"""`power-of-two`: scales that are powers of two, so that integers are brought from one to another by shifts.

The constraint of FQN (Li et al., "Fully quantized network for object detection", CVPR 2019). How the exponent
is chosen is ours: by the least mean square error.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from aqd_deploy.quantization.observe import Observations
from aqd_deploy.quantization.quantizer import (
    QuantizerParameters,
    channel_limits,
    code_bounds,
    from_range,
    steps,
    weights_up_to,
)

HALVINGS = 6
"""Exponents that are tried, from that which takes the whole range on down."""


class PowerOfTwo:
    """Of each tensor, or each channel of weights, by itself."""

    histograms = True

    def activation(self, observed: Observations, bits: int, signed: bool) -> QuantizerParameters:
        """By the histogram, whose bins stand for their middles."""
        middles = (observed.edges[:-1] + observed.edges[1:]) / 2
        whole = from_range(observed.low, observed.high, bits, signed)
        candidates = []
        for scale in _powers(whole.scale):
            zero = 0 if signed or observed.low >= 0 else np.rint(-observed.low / float(scale))
            low, high = code_bounds(bits, signed)
            candidates.append(replace(whole, scale=scale, zero_point=int(np.clip(zero, low, high))))
        errors = [
            float((observed.counts * (each.rounded(middles) - middles) ** 2).sum()) for each in candidates
        ]
        return candidates[int(np.argmin(errors))]

    def weight(self, weights: np.ndarray, bits: int, axis: int | None) -> QuantizerParameters:
        """By the weights themselves."""
        whole = weights_up_to(channel_limits(weights, axis), bits)
        others = None if axis is None else tuple(i for i in range(weights.ndim) if i != axis)
        scales = _powers(whole.scale)
        errors = [
            ((replace(whole, scale=scale).rounded(weights, axis) - weights) ** 2).mean(axis=others)
            for scale in scales
        ]
        best = np.argmin(errors, axis=0)
        return replace(whole, scale=np.choose(best, scales).astype(np.float32))


def _powers(scale: np.ndarray) -> list[np.ndarray]:
    """The smallest power of two that is no less than each scale, and its halves."""
    top = np.exp2(np.ceil(np.log2(scale.astype(np.float64))))
    return [steps(top / 2**k) for k in range(HALVINGS)]
