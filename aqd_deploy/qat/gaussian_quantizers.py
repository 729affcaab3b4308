"""Quantizers whose intervals and steps follow, while training goes on, from densities of pieces of Gaussians.

The idea is that of Yang, Liu, Zhou, Wang and Chen, "Quantization and training of object detection networks
with low-precision weights and activations", Journal of Electronic Imaging 27(1) 013020, 2018: the densities
of the weights and the activations of each layer are estimated directly by piecewise Gaussian models, and the
interval and the step of each convolution's quantizers follow from them. We could read the abstract only;
everything else is ours:

- Pieces and estimator are those of quantization after training (`aqd_deploy.densities`). A quantizer has one
  density for all its channels, because AQD's scales are those of tensors.
- Interval and step. Those of the least expected squared error under the density, of 100 intervals up to the
  largest magnitude and of those between the neighbours of the best, twice, ten times finer each.
- The codes are AQD's (Eq. 2 and 3), so that a network is exported, lowered and stored like any other.
- Schedule (`aqd_deploy.qat.estimates`). The densities are estimated anew 40 times in a training, evenly, the
  last time when four fifths of it are over: the last fifth learns with intervals that stay.
- What is estimated. Of weights, the weights as they are, and the interval is the one they ask for. Of
  activations, what the batch of that iteration gives, with the running statistics of the batch norms (what
  the deployed network will see) and with all quantizers in front at work; at most 16,384 values a call.
- Moving statistics. The interval of an activation moves a quarter of the way to the one of the new density.
- Gradients. Straight through within the interval, none outside of it, of weights and of activations; no
  gradient moves an interval.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from aqd_deploy.densities import Points, fit
from aqd_deploy.qat.quantizers import ActivationQuantizer, WeightQuantizer

APPROACH = 0.25
MOST_WEIGHTS = 65536
INTERVALS = 100
REFINEMENTS = 2


def best_clip(points: Points, codes: np.ndarray) -> float:
    """The interval ν of least expected squared error under a density, one channel, where the codes (whole
    numbers, ascending, evenly spaced) stand for code · ν / max|code|; 1 where every value is 0.
    """
    top = float(np.abs(codes).max())
    values, counts = points.values[0], points.counts[0]
    largest = float(np.abs(values).max(initial=0))
    if not largest > 0:
        return 1.0
    spacing = largest / INTERVALS
    best = _least(values, counts, codes, spacing * np.arange(1, INTERVALS + 1) / top)
    for _ in range(REFINEMENTS):
        tried = best + spacing / top * np.linspace(-0.9, 0.9, 19)
        best = _least(values, counts, codes, tried[tried > 0])
        spacing /= 10
    return best * top


def _least(values: np.ndarray, counts: np.ndarray, codes: np.ndarray, steps: np.ndarray) -> float:
    """The step, of those that are tried, with the least squared error."""
    gap = codes[1] - codes[0]
    errors = []
    for step in steps:
        nearest = np.clip(np.rint((values / step - codes[0]) / gap), 0, len(codes) - 1)
        errors.append(float(((values - (codes[0] + gap * nearest) * step) ** 2) @ counts))
    return float(steps[int(np.argmin(errors))])


Problem = tuple[np.ndarray, np.ndarray]
"""Values, 1-D, and the codes that shall stand for them."""


def interval(problem: Problem) -> float:
    """The interval that suits values, by the density that is fitted to them."""
    values, codes = problem
    return best_clip(fit(Points.of_weights(values, None))[0].points(), codes)


class GaussianActivationQuantizer(ActivationQuantizer):
    """Eq. 2's codes; ν is no parameter that gradients move, but follows from densities."""

    def __init__(self, bits: int, leak: float = 0.0) -> None:
        super().__init__(bits, leak)
        self.nu.requires_grad_(False)

    def problem(self, values: Tensor) -> Problem:
        """What asks for ν, of activations, 1-D."""
        values = values.detach() if self.zero_point else values.detach().clamp(min=0)
        return values.cpu().numpy(), np.arange(-self.zero_point, self.top + 1)

    def clip_of(self, values: Tensor) -> float:
        """The ν that suits activations, 1-D."""
        return interval(self.problem(values))

    def approach(self, clip: float) -> None:
        """Moves ν toward the one that a new density asks for."""
        with torch.no_grad():
            self.nu.lerp_(torch.full_like(self.nu, clip), APPROACH)


class GaussianWeightQuantizer(WeightQuantizer):
    """Eq. 3's odd codes; ν is no parameter that gradients move, but follows from densities."""

    def __init__(self, bits: int, standardize: bool = False) -> None:
        super().__init__(bits, standardize)
        self.nu.requires_grad_(False)

    def problem(self, values: Tensor) -> Problem:
        """What asks for ν, of prepared weights, 1-D; of many, of a sample that is evenly spread."""
        sample = values.detach()[:: -(-values.numel() // MOST_WEIGHTS) or 1]
        return sample.cpu().numpy(), np.arange(-self.top_code, self.top_code + 1, 2)

    def clip_of(self, values: Tensor) -> float:
        """The ν that suits prepared weights, 1-D."""
        return interval(self.problem(values))
