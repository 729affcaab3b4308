"""A uniform quantizer of one tensor: its parameters, its codes, and how they follow from a range."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SMALLEST_SCALE = float(np.finfo(np.float32).tiny)
"""A step below it would lose digits as a float32."""


@dataclass(frozen=True, eq=False)
class QuantizerParameters:
    """code = clip(round_half_even(x / scale) + zero_point, low, high), x ≈ (code − zero_point)·scale.

    `scale`: float32, no dimensions, or [C] along an axis that the caller knows. Unsigned codes are those of
    `bits` bits, 0…2^b−1; signed ones −2^(b−1)…2^(b−1)−1, with a zero point of 0.
    """

    scale: np.ndarray
    bits: int
    signed: bool
    zero_point: int = 0

    @property
    def low(self) -> int:
        """The lowest code."""
        return code_bounds(self.bits, self.signed)[0]

    @property
    def high(self) -> int:
        """The highest code."""
        return code_bounds(self.bits, self.signed)[1]

    def codes(self, values: np.ndarray, axis: int | None = None) -> np.ndarray:
        """The codes of real values, int64 of their shape."""
        return codes_within(np.rint(values / self.scale_along(values.ndim, axis)), self)

    def reals(self, codes: np.ndarray, axis: int | None = None) -> np.ndarray:
        """What codes stand for, float32."""
        real = (codes - self.zero_point) * self.scale_along(codes.ndim, axis)
        return real.astype(np.float32)

    def rounded(self, values: np.ndarray, axis: int | None = None) -> np.ndarray:
        """What the quantizer makes of real values, float32."""
        return self.reals(self.codes(values, axis), axis)

    def scale_along(self, rank: int, axis: int | None) -> np.ndarray:
        """The scale in a shape that lies along `axis` of a tensor of that rank."""
        return along(self.scale, rank, axis)


def code_bounds(bits: int, signed: bool) -> tuple[int, int]:
    """The lowest and the highest code of so many bits."""
    half = 1 << (bits - 1)
    return (-half, half - 1) if signed else (0, 2 * half - 1)


def codes_within(steps: np.ndarray, parameters: QuantizerParameters) -> np.ndarray:
    """Whole numbers of steps as codes, int64."""
    shifted = steps + parameters.zero_point
    return np.clip(shifted, parameters.low, parameters.high).astype(np.int64)


def along(values: np.ndarray, rank: int, axis: int | None) -> np.ndarray:
    """A vector in a shape that lies along `axis` of a tensor of that rank; a scalar as it is."""
    if values.ndim == 0 or axis is None:
        return values
    return values.reshape([-1 if i == axis else 1 for i in range(rank)])


def from_range(low: float, high: float, bits: int, signed: bool) -> QuantizerParameters:
    """The quantizer of activations that takes all of [low, high], which reaches to 0 at least.

    - signed: symmetric, its largest code at the farther end.
    - unsigned, low ≥ 0: from 0 to high, zero point 0.
    - unsigned, low < 0: from low to high, with a zero point.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    bottom, top = code_bounds(bits, signed)
    if signed:
        return QuantizerParameters(steps(max(-low, high) / top), bits, signed)
    scale = steps((high - low) / (top - bottom))
    zero_point = int(np.clip(np.rint(-low / float(scale)), bottom, top))
    return QuantizerParameters(scale, bits, signed, zero_point)


def weights_up_to(limits: np.ndarray, bits: int) -> QuantizerParameters:
    """The signed quantizer of weights whose largest code stands for `limits` [C] or []; a channel of zeros,
    which any step would do for, has the largest step of the others.
    """
    limits = np.asarray(limits, np.float64)
    limits = np.where(limits > 0, limits, limits.max() or 1.0)
    return QuantizerParameters(steps(limits / code_bounds(bits, True)[1]), bits, True)


def channel_limits(weights: np.ndarray, axis: int | None) -> np.ndarray:
    """The largest absolute weight: float64 [C] along `axis`, [] for None."""
    others = None if axis is None else tuple(i for i in range(weights.ndim) if i != axis)
    return np.asarray(np.abs(weights).max(axis=others), np.float64)


def steps(values: np.ndarray | float) -> np.ndarray:
    """Scales as float32, none of them 0: what is constant 0 may have any."""
    return np.maximum(np.asarray(values, np.float64), SMALLEST_SCALE).astype(np.float32)
