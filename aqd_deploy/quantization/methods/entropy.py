"""`entropy`: the range whose codes tell the least falsely how often values occur.

The Kullback-Leibler divergence of TensorRT's calibration (S. Migacz, "8-bit inference with TensorRT", GTC
2017), for ranges of both signs as well, which are shrunk on both sides by one factor.
"""

from __future__ import annotations

import numpy as np

from aqd_deploy.quantization.observe import Observations
from aqd_deploy.quantization.quantizer import (
    QuantizerParameters,
    channel_limits,
    from_range,
    weights_up_to,
)

CANDIDATES = 128
"""Factors that are tried, i / CANDIDATES."""


class Entropy:
    """Weights, whose few values make no distribution, keep their whole range."""

    histograms = True

    def activation(self, observed: Observations, bits: int, signed: bool) -> QuantizerParameters:
        """The candidate of least divergence; of equal ones the widest."""
        middles = (observed.edges[:-1] + observed.edges[1:]) / 2
        counts = _without_spike(observed.counts, observed.edges)
        best, least = from_range(observed.low, observed.high, bits, signed), np.inf
        for i in range(CANDIDATES, CANDIDATES // 32 - 1, -1):
            factor = i / CANDIDATES
            candidate = from_range(observed.low * factor, observed.high * factor, bits, signed)
            divergence = _divergence(counts, middles, candidate)
            if divergence < least:
                best, least = candidate, divergence
        return best

    def weight(self, weights: np.ndarray, bits: int, axis: int | None) -> QuantizerParameters:
        """Up to the largest absolute value."""
        return weights_up_to(channel_limits(weights, axis), bits)


def _without_spike(counts: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """The counts with those of 0 as high as its neighbours': what a ReLU makes 0 has a code in any range, and
    would outweigh all that is clipped.
    """
    zero = int(np.clip(np.searchsorted(edges, 0.0, side="right") - 1, 0, len(counts) - 1))
    smoothed = counts.copy()
    neighbours = [counts[i] for i in (zero - 1, zero + 1) if 0 <= i < len(counts)]
    smoothed[zero] = min(counts[zero], max(neighbours))
    return smoothed


def _divergence(counts: np.ndarray, middles: np.ndarray, quantizer: QuantizerParameters) -> float:
    """Σ p·ln(p / q) over the bins within the range. p has what is outside in the outermost of them; q has of
    each code its share, spread over the bins of the code that hold anything.
    """
    scale = float(quantizer.scale)
    low, high = ((code - quantizer.zero_point) * scale for code in (quantizer.low, quantizer.high))
    inside = (middles >= low) & (middles <= high)
    if inside.sum() <= quantizer.high - quantizer.low:
        # A code for every bin tells each of them rightly, whatever is clipped.
        return np.inf
    kept = counts[inside].astype(np.float64)
    p = kept.copy()
    p[0] += counts[middles < low].sum()
    p[-1] += counts[middles > high].sum()
    codes = quantizer.codes(middles[inside]) - quantizer.low
    filled = kept > 0
    sums, bins = np.bincount(codes, kept), np.bincount(codes, filled)
    q = np.where(filled, sums[codes] / np.maximum(bins[codes], 1), 0.0)
    # What was clipped into a bin that was empty has no counterpart; it counts as the least there is.
    q = np.maximum(q, 1e-9)
    p, q = p / p.sum(), q / q.sum()
    used = p > 0
    return float((p[used] * np.log(p[used] / q[used])).sum())
