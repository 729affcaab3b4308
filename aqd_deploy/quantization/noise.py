"""Sums over images that say how near an approximation of a tensor is, and how its codes are used."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from aqd_deploy.quantization.layers import Steps


def decibels(signal: float, noise: float) -> float | None:
    """Signal-to-noise of two powers; None where there is no noise, or no signal."""
    return 10 * math.log10(signal / noise) if signal > 0 and noise > 0 else None


@dataclass
class Noise:
    """Sums over all images of a tensor and of an approximation of it, in float64."""

    signal: float = 0.0
    noise: float = 0.0
    product: float = 0.0
    square: float = 0.0

    def add(self, exact: np.ndarray, approximation: np.ndarray) -> None:
        """One image's."""
        a, b = exact.astype(np.float64).ravel(), approximation.astype(np.float64).ravel()
        if np.array_equal(a, b):
            self.join(Noise(signal=(power := float(a @ a)), product=power, square=power))
            return
        self.signal += float(a @ a)
        self.square += float(b @ b)
        self.product += float(a @ b)
        self.noise += float((a - b) @ (a - b))

    def join(self, other: Noise) -> None:
        """Adds the sums of other images, or of another tensor."""
        self.signal += other.signal
        self.noise += other.noise
        self.product += other.product
        self.square += other.square

    @property
    def ratio(self) -> float | None:
        """Noise power of signal power; None where there is no signal."""
        return self.noise / self.signal if self.signal else None

    def told(self) -> dict[str, float | None]:
        """`snr_db` is None where there is no noise or no signal, `cosine` where one of the two is zero."""
        lengths = np.sqrt(self.signal * self.square)
        return {
            "snr_db": decibels(self.signal, self.noise),
            "noise_ratio": self.ratio,
            "cosine": float(np.clip(self.product / lengths, -1, 1)) if lengths else None,
        }


class Usage:
    """How often each code of a quantizer occurred."""

    def __init__(self, steps: Steps) -> None:
        self.steps = steps
        self.counts = np.zeros(steps.high - steps.low + 1, np.int64)

    def add(self, codes: np.ndarray) -> None:
        """One image's, or one weight's."""
        found = codes.ravel().astype(np.int64) - self.steps.low
        self.counts += np.bincount(found, minlength=len(self.counts))

    def told(self) -> dict[str, Any]:
        """`bits` of the codes that there are; as shares of 1, `used`: how far the lowest and the highest code
        that occurred lie apart, of the range; `saturated`: codes at an end of the range that isn't zero's.

        Where all codes are odd (AQD's weights) the even ones are no codes.
        """
        found = np.flatnonzero(self.counts)
        if not len(found):
            return {"bits": self.steps.bits, "used": 0.0, "saturated": 0.0}
        odd = bool((found + self.steps.low & 1).all())
        ends = self.steps.low + (odd and not self.steps.low & 1), self.steps.high
        codes = (ends[1] - ends[0]) // (1 + odd)
        zero = {round(float(each)) for each in self.steps.zero.ravel()}
        saturated = sum(int(self.counts[end - self.steps.low]) for end in ends if end not in zero)
        return {
            "bits": codes.bit_length(),
            "used": int(found[-1] - found[0]) / (1 + odd) / codes,
            "saturated": saturated / int(self.counts.sum()),
        }
