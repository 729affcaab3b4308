"""Which of its two neighbouring codes each weight takes, learned: AdaRound (Nagel et al., ICML 2020).

A layer's squared output error is a quadratic function of its weights, so that three matrices stand for all
calibration images and every step sees all of them: Σ(W·x − Ŵ·x̂)² is made of Σ x̂·x̂ᵀ, Σ x·x̂ᵀ and Σ x·xᵀ,
where x are inputs of the float network and x̂ those that the layers in front have already quantized. No
batches are drawn, so nothing depends on a seed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aqd_deploy.quantization.quantizer import SMALLEST_SCALE, QuantizerParameters

# As published, but for the rate: theirs is 3e-3 for 20,000 iterations.
LOWEST, HIGHEST = -0.1, 1.1
SHARPEST, ROUNDEST = 20.0, 2.0
WARM_UP = 0.2
WEIGHT = 0.01
RATE = 3e-2
DECAYS = (0.9, 0.999)


@dataclass(frozen=True)
class Inputs:
    """What a layer reads, as sums over all positions of all images, float64 [groups, K, K] with K the inputs
    of one output (channels of a group times kernel): Σ x̂·x̂ᵀ, Σ x·x̂ᵀ and Σ x·xᵀ.
    """

    quantized: np.ndarray
    cross: np.ndarray
    plain: np.ndarray

    @classmethod
    def of(cls, plain: np.ndarray, quantized: np.ndarray) -> Inputs:
        """Those of one image: float32 [groups, K, positions] each."""
        pairs = ((quantized, quantized), (plain, quantized), (plain, plain))
        return cls(*((x @ y.transpose(0, 2, 1)).astype(np.float64) for x, y in pairs))

    def __add__(self, other: Inputs) -> Inputs:
        return Inputs(self.quantized + other.quantized, self.cross + other.cross, self.plain + other.plain)

    def error(self, weights: np.ndarray, rounded: np.ndarray) -> np.ndarray:
        """The squared output error [groups, outputs] of `rounded` in the place of `weights`, both [groups,
        outputs, K].
        """
        return (
            np.einsum("gok,gok->go", rounded @ self.quantized - 2 * (weights @ self.cross), rounded)
            + np.einsum("gok,gok->go", weights @ self.plain, weights)
        )  # fmt: skip


def learned_codes(
    weights: np.ndarray, parameters: QuantizerParameters, inputs: Inputs, iterations: int
) -> np.ndarray:
    """Codes int64 of `weights` [O, …], whose scales lie along axis 0 or are one.

    An output channel that comes out no better than rounded to the nearest stays so (ours; the channels'
    errors are independent).
    """
    shape = (len(inputs.plain), -1, inputs.plain.shape[1])
    real = weights.reshape(shape).astype(np.float64)
    scale = np.broadcast_to(parameters.scale_along(weights.ndim, 0), weights.shape).reshape(shape)
    nearest = parameters.codes(weights, 0).reshape(shape)
    learned = _learned(real, scale.astype(np.float64), parameters, inputs, iterations)
    before, after = inputs.error(real, nearest * scale), inputs.error(real, learned * scale)
    return np.where((after < before)[:, :, None], learned, nearest).reshape(weights.shape)


def _learned(
    weights: np.ndarray, scale: np.ndarray, parameters: QuantizerParameters, inputs: Inputs, iterations: int
) -> np.ndarray:
    """Codes by a rectified sigmoid of a number for each weight: it lies between the two neighbours, and is
    drawn to one of them; by Adam, with the gradient written out.
    """
    # In units in which an output channel has the mean square 1, whatever the network's.
    power = max(float(np.einsum("gok,gok->go", weights @ inputs.plain, weights).mean()), SMALLEST_SCALE)
    gram = (inputs.quantized / power).astype(np.float32)
    target = (weights @ inputs.cross / power).astype(np.float32)
    floor = np.floor(weights / scale)
    share = np.clip(weights / scale - floor, 1e-3, 1 - 1e-3)
    logits = np.log((share - LOWEST) / (HIGHEST - share)).astype(np.float32)
    below, steps = floor.astype(np.float32), scale.astype(np.float32)
    moments = [np.zeros_like(logits), np.zeros_like(logits)]
    for iteration in range(iterations):
        sigmoid = 1 / (1 + np.exp(-logits))
        up = np.clip(sigmoid * (HIGHEST - LOWEST) + LOWEST, 0, 1)
        codes = np.clip(below + up, parameters.low, parameters.high)
        gradient = np.where(codes == below + up, 2 * (codes * steps @ gram - target) * steps, 0)
        done = iteration / iterations
        if done >= WARM_UP:
            sharpness = ROUNDEST + (SHARPEST - ROUNDEST) * (1 - done) / (1 - WARM_UP)
            side = 2 * up - 1
            gradient -= WEIGHT * 2 * sharpness * np.sign(side) * np.abs(side) ** (sharpness - 1)
        gradient *= np.where((up > 0) & (up < 1), (HIGHEST - LOWEST) * sigmoid * (1 - sigmoid), 0)
        logits -= RATE * _adam(moments, gradient, iteration + 1)
    return np.clip(floor + (logits > 0), parameters.low, parameters.high).astype(np.int64)


def _adam(moments: list[np.ndarray], gradient: np.ndarray, count: int) -> np.ndarray:
    """The direction of step `count` (from 1) of Adam (Kingma and Ba 2015), whose moments are updated."""
    for moment, value, decay in zip(moments, (gradient, gradient**2), DECAYS, strict=True):
        moment *= decay
        moment += (1 - decay) * value
    first, second = (moment / (1 - decay**count) for moment, decay in zip(moments, DECAYS, strict=True))
    return first / (np.sqrt(second) + 1e-8)
