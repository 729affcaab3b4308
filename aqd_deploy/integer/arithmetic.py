"""How many operations of integer arithmetic a network takes, and on how many bits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aqd_deploy.integer.ranges import Interval

STREAM_BITS = 32
"""Everything but the products of convolutions is computed on int32; the products of multiply-shifts are wider
still.
"""


@dataclass(frozen=True)
class Arithmetic:
    """What one run of one operation computes: multiply-accumulates of codes by stored weights, products and
    sums of int32. A comparison counts as a sum; shifts, moves of data and table lookups aren't counted.
    """

    macs: int = 0
    products: int = 0
    sums: int = 0


def weight_bits(weights: np.ndarray, takes_bytes: bool = False) -> int:
    """Bits of an integer array: of AQD's odd grids (within ±(2^n − 1)) and of two's complement those that its
    values need, at least 2; 8 where a weight takes a byte whatever its value, of uint8, and of nothing.
    """
    if takes_bytes or not weights.size or weights.dtype == np.uint8:
        return 8
    values = weights.astype(np.int64)
    if (values % 2 == 1).all():
        return max(2, int(np.abs(values).max()).bit_length())
    return max(
        2, int(np.maximum(values, -values - 1).max()).bit_length() + str(weights.dtype).startswith("int")
    )


def interval_bits(interval: Interval) -> int:
    """Bits that hold every integer of a proven interval, in two's complement where one is negative."""
    low, high = interval.bounds
    return max(1, high.bit_length()) if low >= 0 else max(high.bit_length(), (~low).bit_length()) + 1
