"""Quantizers of least Lp error: the search that `mse` and `detptq` share.

A tensor is weighted points, so that a histogram, a fitted density and the channels of a weight are searched
alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aqd_deploy.densities import Points
from aqd_deploy.quantization.quantizer import QuantizerParameters, code_bounds, steps

CANDIDATES = 100
MOST_ZERO_POINTS = 32


@dataclass(frozen=True)
class Candidates:
    """Steps and zero points of quantizers with these bits, float64 [candidates, channels]."""

    steps: np.ndarray
    zero_points: np.ndarray
    bits: int
    signed: bool

    @classmethod
    def of(cls, points: Points, bits: int, signed: bool) -> Candidates:
        """Every i/100 of the widest range: from −max|x| to max|x| for signed codes, else what the values and
        0 span. Unsigned codes of values with both signs are tried with zero points, too: at most 32, evenly
        spread over the codes (ours; the published search tries all, 25,600 candidates at 8 bits).
        """
        low, high = code_bounds(bits, signed)
        lowest, highest = points.values.min(axis=1), points.values.max(axis=1)
        width = 2 * points.largest if signed else np.maximum(highest, 0) - np.minimum(lowest, 0)
        zeros = np.zeros(1)
        if not signed and (lowest < 0).any():
            zeros = np.unique(np.linspace(low, high, min(MOST_ZERO_POINTS, high + 1)).round())
        fractions = np.arange(1, CANDIDATES + 1) / CANDIDATES
        sizes = np.outer(fractions, np.where(width > 0, width, 1.0)) / (high - low)
        zero_points = np.repeat(zeros, CANDIDATES)[:, None] + np.zeros(len(width))
        return cls(np.tile(sizes, (len(zeros), 1)), zero_points, bits, signed)

    def errors(self, points: Points, powers: Sequence[float]) -> np.ndarray:
        """Σ counts·|x − x_q|^p, float64 [powers, candidates, channels], with each channel in units of its
        largest magnitude.
        """
        unit = np.where(points.largest > 0, points.largest, 1.0)
        values = (points.values / unit[:, None]).astype(np.float32)
        bounds = code_bounds(self.bits, self.signed)
        found = np.empty((len(powers), *self.steps.shape))
        for index, (step, zero) in enumerate(zip(self.steps / unit, self.zero_points, strict=True)):
            step, zero = (each.astype(np.float32)[:, None] for each in (step, zero))
            codes = np.clip(np.rint(values / step) + zero, *bounds)
            distance = np.abs(values - (codes - zero) * step)
            for k, power in enumerate(powers):
                found[k, index] = np.einsum("cn,cn->c", distance ** np.float32(power), points.counts)
        return found

    def best(self, errors: np.ndarray) -> Candidates:
        """The one of least error [candidates, channels] for each channel, as one candidate."""
        chosen = errors.argmin(axis=0)[None]
        found = [np.take_along_axis(each, chosen, axis=0) for each in (self.steps, self.zero_points)]
        return Candidates(found[0], found[1], self.bits, self.signed)

    def parameters(self, points: Points, axis: int | None) -> QuantizerParameters:
        """The quantizer of the only candidate. A channel of zeros, which any step would do for, has the
        largest of the others.
        """
        scale = self.steps[0]
        dead = points.largest == 0
        scale = np.where(dead & ~dead.all(), np.where(dead, 0, scale).max(), scale)
        shaped = steps(scale if axis is not None else scale[0])
        return QuantizerParameters(shaped, self.bits, self.signed, int(self.zero_points[0, 0]))


def quantizers(
    points: Points, bits: int, signed: bool, powers: Sequence[float], axis: int | None = None
) -> list[QuantizerParameters]:
    """For each power p the quantizer of least Σ|x − x_q|^p, channel by channel, of 100 ranges (and of zero
    points, where there are any): the search of PD-Quant (CVPR 2023), which DetPTQ builds on.
    """
    tried = Candidates.of(points, bits, signed)
    return [tried.best(each).parameters(points, axis) for each in tried.errors(points, powers)]
