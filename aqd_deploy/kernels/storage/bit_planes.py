"""Integers in frames of 64 neighbours, each frame in the bits that it needs (frame of reference).

The multipliers, offsets and clamps of a layer's channels are int32 or int64, but neighbours differ in few
bits. A frame stores its smallest value, the base, and what the others lie above it as bit planes: bit l of
plane j is bit j of value l − base. A frame of equal values has no plane.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FRAME = 64


@dataclass(frozen=True, eq=False)
class Frames:
    """`bases` int32 or int64 [n]; `widths` uint8 [n], planes a frame; `planes` uint64 [Σ widths]."""

    bases: np.ndarray
    widths: np.ndarray
    planes: np.ndarray

    @property
    def nbytes(self) -> int:
        """Bytes of the three arrays."""
        return self.bases.nbytes + self.widths.nbytes + self.planes.nbytes


def encode(values: np.ndarray) -> Frames:
    """Store int32 or int64 `values` [n·64]."""
    framed = values.reshape(-1, FRAME)
    bases = framed.min(axis=1)
    unsigned = np.dtype(f"u{values.dtype.name}")
    # A difference may need one bit more than the signed type has.
    above = framed.view(unsigned) - bases.view(unsigned)[:, None]
    widths = np.array([int(most).bit_length() for most in above.max(axis=1)], np.uint8)
    return Frames(bases, widths, _transposed(above.astype("<u8"))[_stored(widths)])


def decode(frames: Frames) -> np.ndarray:
    """The values that `encode` stored."""
    planes = np.zeros((len(frames.widths), FRAME), "<u8")
    planes[_stored(frames.widths)] = frames.planes
    unsigned = np.dtype(f"u{frames.bases.dtype.name}")
    values = frames.bases.view(unsigned)[:, None] + _transposed(planes).astype(unsigned)
    return values.view(frames.bases.dtype).reshape(-1)


def _stored(widths: np.ndarray) -> np.ndarray:
    """Which of 64 planes a frame has, bool [n, 64]."""
    return np.arange(64) < widths[:, None]


def _transposed(words: np.ndarray) -> np.ndarray:
    """64×64 bits at a time: bit j of word l becomes bit l of word j; uint64 [n, 64]."""
    bits = np.unpackbits(words.view(np.uint8).reshape(-1, 64, 8), axis=2, bitorder="little")
    packed = np.packbits(bits.transpose(0, 2, 1), axis=2, bitorder="little")
    return np.ascontiguousarray(packed).view("<u8")[..., 0]
