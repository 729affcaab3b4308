"""The operations of the graph, one type a kind, with all that is known of each: typed, frozen, on its node.

Those of the QDQ file come first, then those between real and integer tensors, then those that both kinds of
tensors know, which say how they are written; `integer_operations.py` has the rest. Windows and factors are
explicit (read_qdq made them so).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
from onnx import NodeProto

from aqd_deploy.integer import dialect
from aqd_deploy.integer.rational import ChannelForm
from aqd_deploy.integer.staircase import Quantizer, Staircases
from aqd_deploy.passes.graph import Node, Operation
from aqd_deploy.passes.writer import Writer


@dataclass(frozen=True)
class Window:
    """What a convolution or a pooling looks at: kernel [kh, kw], pads [top, left, bottom, right]."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...] = (1, 1)

    @property
    def is_square(self) -> bool:
        """Whether one number each says its kernel, its strides and its pads."""
        return len({*self.kernel}) == len({*self.strides}) == len({*self.pads}) == 1


# Of the QDQ file: real tensors, but for the structural ones and Clip, which also work on codes.


@dataclass(frozen=True)
class FileOperation(Operation):
    """An operation as the file has it; read_qdq makes one of the others of it."""

    op_type: str
    attributes: Mapping[str, Any]

    @property
    def name(self) -> str:
        """ONNX's word."""
        return self.op_type


@dataclass(frozen=True)
class Add(Operation):
    """The sum of two tensors, or of one and a constant."""


@dataclass(frozen=True)
class Sub(Operation):
    """The first less the second."""


@dataclass(frozen=True)
class Mul(Operation):
    """The product of two tensors, or of one and a constant."""


@dataclass(frozen=True)
class Div(Operation):
    """The first over the second."""


@dataclass(frozen=True)
class Relu(Operation):
    """max(x, 0)."""


@dataclass(frozen=True)
class Clip(Operation):
    """Between two constants, its second and third input."""


@dataclass(frozen=True)
class BatchNormalization(Operation):
    """γ(x − μ)/√(var + ε) + β."""

    epsilon: Fraction


@dataclass(frozen=True)
class Conv(Operation):
    """A convolution of real numbers."""

    window: Window
    group: int


@dataclass(frozen=True)
class ConvTranspose(Operation):
    """The gradient of a convolution by its input: `size` are the rows and columns of its result."""

    window: Window
    group: int
    size: tuple[int, int]


@dataclass(frozen=True)
class AveragePool(Operation):
    """The mean of each window. `padded` says whether the padding counts, as zeros."""

    window: Window
    padded: bool


@dataclass(frozen=True)
class LinearResize(Operation):
    """Linear interpolation by whole factors (rows, columns), half_pixel or asymmetric."""

    factors: tuple[int, int]
    half_pixel: bool

    @property
    def name(self) -> str:
        """ONNX's word."""
        return "Resize"


@dataclass(frozen=True)
class Function(Operation):
    """A function of each element alone, by ONNX's name, with its parameters (`functions.py`)."""

    function: str
    parameters: tuple[Fraction, ...] = ()

    @property
    def name(self) -> str:
        """ONNX's word."""
        return self.function


@dataclass(frozen=True)
class PRelu(Operation):
    """x, or a constant times x where x is negative."""


@dataclass(frozen=True)
class QuantizeLinear(Operation):
    """Scale and zero point are inputs; `output_dtype` is ONNX's number of a type, 0 where it says none."""

    axis: int
    output_dtype: int


@dataclass(frozen=True)
class DequantizeLinear(Operation):
    """Scale and zero point are inputs."""

    axis: int


# Between real and integer tensors.


@dataclass(frozen=True)
class Scale(Operation):
    """x = η·α + β per channel."""

    forms: list[ChannelForm]


@dataclass(frozen=True)
class Quantize(Operation):
    """Codes of a real tensor, stored as `dtype`. Where channels have steps or zero points of their own,
    `channels` has a factor for each, by which it is multiplied first, and a zero point, instead of the
    quantizer's.
    """

    quantizer: Quantizer
    dtype: str
    channels: tuple[tuple[Fraction, int], ...] = ()

    def variants(self) -> tuple[tuple[Fraction, int], ...]:
        """Factor and zero point of every channel; of one where all are alike."""
        return self.channels or ((Fraction(1), self.quantizer.zero_point),)

    def code(self, value: Fraction, variant: tuple[Fraction, int]) -> int:
        """The code of a real number in a channel of this factor and zero point."""
        factor, zero_point = variant
        return replace(self.quantizer, zero_point=zero_point).code(value * factor)


@dataclass(frozen=True, eq=False)
class Staircase(Operation):
    """Codes of an integer tensor: exact staircases, for which solve_requantize looks for constants.

    `input_errors` [C] bounds in quantizer steps by how much the integers were rounded before.
    """

    stairs: Staircases
    dtype: str
    input_errors: np.ndarray


# Of the integer file.


class IntegerOperation(Operation, ABC):
    """An operation that the integer file can have."""

    @abstractmethod
    def write(self, node: Node, writer: Writer) -> NodeProto:
        """The ONNX node, its constants handed to `writer`."""


@dataclass(frozen=True)
class Plain(IntegerOperation):
    """An ONNX operation without constants, on real numbers as well as on integers."""

    def write(self, node: Node, writer: Writer) -> NodeProto:
        """Without attributes."""
        return dialect.standard_node(self.name, node.inputs, node.output)


@dataclass(frozen=True)
class Identity(Plain):
    """The tensor itself, under another name."""


@dataclass(frozen=True)
class Concat(Plain):
    """Joined along the channels."""

    def write(self, node: Node, writer: Writer) -> NodeProto:
        """Axis 1."""
        return dialect.standard_node("Concat", node.inputs, node.output, axis=1)


@dataclass(frozen=True)
class MaxPool(Plain):
    """The largest element of each window; of integers, 8-bit ones."""

    window: Window

    def write(self, node: Node, writer: Writer) -> NodeProto:
        """With explicit pads. Dilations are written where there are any, which the dialect refuses."""
        w = self.window
        attributes = {"kernel_shape": w.kernel, "strides": w.strides, "pads": w.pads}
        if w.dilations != (1, 1):
            attributes["dilations"] = w.dilations
        return dialect.standard_node("MaxPool", node.inputs, node.output, **attributes)


@dataclass(frozen=True)
class Resize(Plain):
    """Nearest neighbour, asymmetric, floor, by whole factors (rows, columns)."""

    factors: tuple[int, int]

    def write(self, node: Node, writer: Writer) -> NodeProto:
        """By scales, which equal ones share."""
        rows, columns = self.factors
        scales = np.array([1, 1, rows, columns], dtype=np.float32)
        return dialect.standard_node(
            "Resize",
            [node.inputs[0], "", writer.once(f"scales_{rows}x{columns}", scales)],
            node.output,
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )


@dataclass(frozen=True)
class Pad(Operation):
    """[top, left, bottom, right], filled with a value a channel, or one: a real number, a code where the
    tensor holds codes.
    """

    pads: tuple[int, ...]
    values: tuple[Fraction, ...]
