"""Weights as they lie in a program: b bits each, in one little-endian bit stream a tensor.

A tensor of integers q is stored as codes: q = offset + step·code, with step the greatest common divisor of
the differences. AQD's odd grid (−3 −1 1 3) so takes 2 bits, an 8-bit tensor 8. The codes lie in the order
[O, kh, kw, I], the first in the lowest bits of the first byte; `prepare` expands the stream, once a program
is loaded.

Trained 8-bit weights crowd around zero: where Rice codes (`storage.rice_codes`) are a sixteenth smaller, the
program holds them instead of the stream.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from aqd_deploy.kernels.storage import rice_codes
from aqd_deploy.kernels.storage.rice_codes import RiceCodes

# What the function that expands them takes in the file.
_LEAST_SAVING = 4096


@dataclass(frozen=True, eq=False)
class EncodedWeight:
    """`stream` uint8 [ceil(n·bits / 8)]; shape [O, I, kh, kw] of the n weights; q = offset + step·code.

    `rice`: the codes in the form that the program holds instead, None where it holds the stream.
    """

    stream: np.ndarray
    bits: int
    step: int
    offset: int
    shape: tuple[int, int, int, int]
    rice: RiceCodes | None = None

    @cached_property
    def identity(self) -> Hashable:
        """Equal for equal weights."""
        content = hashlib.sha256(self.stream.tobytes()).hexdigest()
        return content, self.shape, self.bits, self.step, self.offset

    @property
    def nbytes(self) -> int:
        """Bytes in the program."""
        return self.stream.nbytes if self.rice is None else self.rice.nbytes


def encode(weight: np.ndarray) -> EncodedWeight:
    """Store the int8 tensor `weight` in the fewest bits (1-8) that hold its distinct steps."""
    values = weight.transpose(0, 2, 3, 1).reshape(-1).astype(np.int64)
    offset = int(values.min())
    shifted = values - offset
    step = int(np.gcd.reduce(shifted)) or 1
    codes = (shifted // step).astype(np.uint8)
    bits = max(1, int(codes.max()).bit_length())
    planes = (codes[:, None] >> np.arange(bits, dtype=np.uint8)) & 1
    stream = np.packbits(planes.reshape(-1), bitorder="little")
    out_channels, in_channels, kh, kw = weight.shape
    return EncodedWeight(
        stream, bits, step, offset, (out_channels, in_channels, kh, kw), _rice(codes, stream.nbytes)
    )


def weights_by_bits(weights: Mapping[str, EncodedWeight]) -> dict[str, Any]:
    """Weights and the bytes they take in the file, by bit width, as the manifest has them."""
    by_bits: dict[str, dict[str, int]] = {}
    for weight in weights.values():
        entry = by_bits.setdefault(str(weight.bits), {"tensors": 0, "weights": 0, "bytes": 0})
        entry["tensors"] += 1
        entry["weights"] += int(weight.shape[0] * weight.shape[1] * weight.shape[2] * weight.shape[3])
        entry["bytes"] += weight.nbytes
    return {"by_bits": dict(sorted(by_bits.items()))}


def _rice(codes: np.ndarray, stream_bytes: int) -> RiceCodes | None:
    """Rice codes where they are worth it; none of them is shorter than the least shift and a bit."""
    least = len(codes) * (min(rice_codes.SHIFTS) + 1) // 8
    if stream_bytes - least < _LEAST_SAVING:
        return None
    stored = rice_codes.encode(codes)
    saved = stream_bytes - stored.nbytes
    return stored if saved >= max(_LEAST_SAVING, stream_bytes // 16) else None


def decode(encoded: EncodedWeight) -> np.ndarray:
    """The int8 tensor that `encode` stored."""
    count = int(np.prod(encoded.shape))
    planes = np.unpackbits(encoded.stream, bitorder="little", count=count * encoded.bits)
    codes = planes.reshape(count, encoded.bits).astype(np.int64) @ (1 << np.arange(encoded.bits))
    out_channels, in_channels, kh, kw = encoded.shape
    values = (encoded.offset + encoded.step * codes).astype(np.int8)
    return np.ascontiguousarray(values.reshape(out_channels, kh, kw, in_channels).transpose(0, 3, 1, 2))
