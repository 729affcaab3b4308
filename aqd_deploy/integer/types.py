"""The type of an integer tensor, and how ONNX names its element type."""

from __future__ import annotations

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
"""What is proven and stored per channel stays small whatever a file joins."""

MAX_ELEMENTS = (1 << 31) - 1
"""Kernels count the elements of a tensor in int32."""


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


def element_name(number: int) -> str:
    """ONNX's name of an element type, also of a number that ONNX does not have."""
    try:
        return str(TensorProto.DataType.Name(number)).lower()
    except ValueError:
        return f"element type {number}"
