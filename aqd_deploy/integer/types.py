"""The type of an integer tensor, and how ONNX names its element type."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

ELEMENT_TYPES: dict[int, str] = {
    TensorProto.UINT8: "uint8",
    TensorProto.INT8: "int8",
    TensorProto.INT32: "int32",
}
"""The element types of computed tensors, by ONNX's number."""

CODES = ("uint8", "int8")
"""The types of quantized tensors."""

MAX_CHANNELS = 1 << 16
"""What is proven and stored per channel stays small whatever a file joins: while a graph is lowered, so many
channels' exact numbers take about 100 MB.
"""

MAX_ELEMENTS = (1 << 31) - 1
"""Kernels count the elements of a tensor in int32."""


MAX_RESIZED = 1 << 24
"""onnxruntime counts the rows and columns of what it resizes in float32, which is exact up to here."""

SMALL_POOL = 16


def pool_fits(kernel: Sequence[int], sizes: Sequence[int]) -> bool:
    """Whether a pool's window [kh, kw] is small, or at most twice as high and wide as its tensor [h, w]."""
    return all(k <= max(SMALL_POOL, 2 * size) for k, size in zip(kernel, sizes, strict=True))


@dataclass(frozen=True)
class TensorType:
    """Height, width, channels and numpy dtype name of a channels-last tensor."""

    height: int
    width: int
    channels: int
    dtype: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """[H, W, C]."""
        return (self.height, self.width, self.channels)

    @property
    def nchw(self) -> tuple[int, int, int, int]:
        """[1, C, H, W], the shape in the ONNX file."""
        return (1, self.channels, self.height, self.width)

    @property
    def bytes(self) -> int:
        """Size in memory."""
        return self.height * self.width * self.channels * np.dtype(self.dtype).itemsize


_SIGNED = {"uint8": False, "int8": True}


def is_signed(dtype: str) -> bool:
    """Whether codes of this type may be negative. Raises KeyError for a type that is not of codes."""
    return _SIGNED[dtype]


def element_name(number: int) -> str:
    """ONNX's name of an element type, also of a number that ONNX does not have."""
    try:
        return str(TensorProto.DataType.Name(number)).lower()
    except ValueError:
        return f"element type {number}"
