"""Proven intervals of integer tensors, per channel, from the actual weights and the intervals of the
inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aqd_deploy.errors import RangeError
from aqd_deploy.integer.domain import INT32_MAX, INT32_MIN


@dataclass(frozen=True, eq=False)
class Interval:
    """lo[c] ≤ η ≤ hi[c] for every element of channel c; both int64 [C]."""

    lo: np.ndarray
    hi: np.ndarray

    @staticmethod
    def uniform(channels: int, lo: int, hi: int) -> Interval:
        """The same bounds in every channel."""
        return Interval(np.full(channels, lo, dtype=np.int64), np.full(channels, hi, dtype=np.int64))

    @property
    def bounds(self) -> tuple[int, int]:
        """(smallest lo, largest hi) over all channels."""
        return int(self.lo.min()), int(self.hi.max())

    def clipped(self, lo: int, hi: int) -> Interval:
        """The interval of clip(η, lo, hi)."""
        return Interval(np.clip(self.lo, lo, hi), np.clip(self.hi, lo, hi))

    def shifted(self, offset: np.ndarray) -> Interval:
        """The interval of η + offset[c]."""
        return Interval(self.lo + offset, self.hi + offset)

    def storage(self) -> str:
        """The narrowest of uint8, int8, int16 and int32 that holds every channel."""
        lo, hi = self.bounds
        for dtype in ("uint8", "int8", "int16"):
            info = np.iinfo(dtype)
            if info.min <= lo and hi <= info.max:
                return dtype
        return "int32"

    def require_int32(self, node: str) -> Interval:
        """Itself; RangeError that names node, channel and bound where a channel does not fit int32.

        The smallest int32 is left out, so that a negated channel fits as well.
        """
        wrong = np.flatnonzero((self.lo <= INT32_MIN) | (self.hi > INT32_MAX))
        if len(wrong):
            channel = int(wrong[0])
            raise RangeError(
                f"node {node}: channel {channel} can reach [{self.lo[channel]}, {self.hi[channel]}]",
                valid=f"accumulators within int32, above {INT32_MIN} and up to {INT32_MAX}",
                next_command="use fewer bits for this layer's weights or activations, then "
                "aqd-deploy lower QDQ.onnx -o M.int.onnx",
            )
        return self


def concatenate(parts: Sequence[Interval]) -> Interval:
    """The interval of a concatenation along the channels."""
    return Interval(np.concatenate([p.lo for p in parts]), np.concatenate([p.hi for p in parts]))


def union(parts: Sequence[Interval]) -> Interval:
    """The smallest interval that holds all of `parts`, which have equally many channels."""
    return Interval(np.min([p.lo for p in parts], axis=0), np.max([p.hi for p in parts], axis=0))


@dataclass(frozen=True, eq=False)
class TapSums:
    """Sums of the positive and of the negative taps of convolution weights, each int64 [O, I/group]."""

    positive: np.ndarray
    negative: np.ndarray


def tap_sums(weights: np.ndarray) -> TapSums:
    """The sums over kh and kw of integer weights [O, I/group, kh, kw]."""
    positive = np.maximum(weights, 0).sum(axis=(2, 3), dtype=np.int64)
    return TapSums(positive, weights.sum(axis=(2, 3), dtype=np.int64) - positive)


def convolution(weights: np.ndarray, source: Interval, group: int, zero_point: int, padded: bool) -> Interval:
    """The interval of Σ w·(x − zero_point) for every output channel.

    `weights` int64 [O, I/group, kh, kw]; every tap takes its own worst input. With `padded`, a tap can also
    meet the padding, which is x = zero_point, so 0.
    """
    return accumulators(tap_sums(weights), source, group, zero_point, padded)


def accumulators(sums: TapSums, source: Interval, group: int, zero_point: int, padded: bool) -> Interval:
    """`convolution` of weights with these sums."""
    lo, hi = source.lo - zero_point, source.hi - zero_point
    if padded:
        lo, hi = np.minimum(lo, 0), np.maximum(hi, 0)
    out_channels, per_group = sums.positive.shape
    index = np.repeat(np.arange(group), out_channels // group)[:, None] * per_group + np.arange(per_group)
    low = (sums.positive * lo[index] + sums.negative * hi[index]).sum(axis=1)
    high = (sums.positive * hi[index] + sums.negative * lo[index]).sum(axis=1)
    return Interval(low, high)
