"""The operations of the graph, one type a kind, with all that is known of each: typed, frozen, on its node.

Those of the QDQ file come first, then the two between real and integer tensors, then those that the integer
file has, which know how they are written. Windows and factors are explicit (read_qdq made them so).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto

from aqd_deploy.integer import dialect
from aqd_deploy.integer.fixedpoint import MultiplyShift as Constants
from aqd_deploy.integer.fixedpoint import RequantizeSolution
from aqd_deploy.integer.operations.pools import pool_name
from aqd_deploy.integer.rational import ChannelForm
from aqd_deploy.integer.staircase import Quantizer, Staircases
from aqd_deploy.passes.graph import Node, Operation
from aqd_deploy.passes.streams import StreamConstants
from aqd_deploy.passes.writer import TYPES, Writer


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
class Mul(Operation):
    """The product of a tensor and a constant."""


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
    """x = η·α + β per channel, for codes with these zero points (one, or one a channel)."""

    forms: list[ChannelForm]
    zero_points: list[int]


@dataclass(frozen=True)
class Quantize(Operation):
    """Codes of a real tensor, stored as `dtype`."""

    quantizer: Quantizer
    dtype: str


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


STRUCTURAL = (MaxPool, Resize, Concat)
"""Operations that only select or place elements: the same on real and on integer tensors."""


_PADDINGS = {"uint8": "PadImage", "int8": "PadSignedImage"}


@dataclass(frozen=True)
class PadImage(IntegerOperation):
    """8-bit pixels, padded with a pixel of their own type per channel: [top, left, bottom, right]."""

    pads: tuple[int, ...]

    def write(self, node: Node, writer: Writer) -> NodeProto:
        """ONNX's order of pads, over all four axes."""
        top, left, bottom, right = self.pads
        inputs = [node.inputs[0], writer.shared(node.inputs[1])]
        name = _PADDINGS[str(writer.graph.constants[node.inputs[1]].dtype)]
        return dialect.node(name, inputs, node.output, pads=[0, 0, top, left, 0, 0, bottom, right])


@dataclass(frozen=True, eq=False)
class Accumulators(IntegerOperation):
    """int32 sums of codes and integer weights: `weights` [O, I/group, kh, kw] as they are meant, int64;
    `zero_point` of the codes, which also is their padding.
    """

    window: Window
    group: int
    weights: np.ndarray
    zero_point: int

    def parts(self, node: Node, writer: Writer) -> tuple[list[str], dict[str, Any]]:
        """The inputs, and the attributes of the geometry."""
        inputs = [node.inputs[0], *(writer.shared(name) for name in node.inputs[1:])]
        w = self.window
        return inputs, {"strides": w.strides, "pads": w.pads, "dilations": w.dilations, "group": self.group}


@dataclass(frozen=True, eq=False)
class ConvInteger(Accumulators):
    """Weights that fit int8."""

    def write(self, node: Node, writer: Writer) -> NodeProto:
        """ONNX's own."""
        inputs, attributes = self.parts(node, writer)
        return dialect.standard_node("ConvInteger", inputs, node.output, **attributes)


@dataclass(frozen=True, eq=False)
class ConvOdd(Accumulators):
    """Odd weights q = 2w + 1 beyond int8, stored as w."""

    def write(self, node: Node, writer: Writer) -> NodeProto:
        """The dialect's, with ones for the sums of windows."""
        inputs, attributes = self.parts(node, writer)
        return dialect.node("ConvOdd", inputs, node.output, **attributes)


CONVOLUTIONS = (ConvInteger, ConvOdd)


@dataclass(frozen=True)
class StreamPool(IntegerOperation):
    """MaxPool of an int32 stream: a square kernel, one stride, one pad."""

    kernel: int
    stride: int
    pad: int

    @property
    def name(self) -> str:
        """The dialect's function."""
        return pool_name(self.kernel, self.stride, self.pad)

    def write(self, node: Node, writer: Writer) -> NodeProto:
        """Its geometry is in its name."""
        return dialect.node(self.name, node.inputs, node.output)


@dataclass(frozen=True)
class Cast(IntegerOperation):
    """Codes as int32."""

    def write(self, node: Node, writer: Writer) -> NodeProto:
        """To int32."""
        return dialect.standard_node("Cast", node.inputs, node.output, to=TensorProto.INT32)


@dataclass(frozen=True)
class Max(IntegerOperation):
    """max(η, 0)."""

    def write(self, node: Node, writer: Writer) -> NodeProto:
        """With a zero that all share."""
        zero = writer.once("zero", np.array(0, dtype=np.int32))
        return dialect.standard_node("Max", [node.inputs[0], zero], node.output)


@dataclass(frozen=True, eq=False)
class Settled(IntegerOperation):
    """A stream brought to β = 0 and α > 0, `error` [C] being its rounding in units of the result."""

    constants: list[Constants]
    error: np.ndarray


@dataclass(frozen=True, eq=False)
class Bias(Settled):
    """η + s per channel (Eq. 6)."""

    def write(self, node: Node, writer: Writer) -> NodeProto:
        """An Add."""
        bias = dialect.per_channel([m.b for m in self.constants], np.int32)
        name = writer.constant(f"{node.output}_bias", bias)
        return dialect.standard_node("Add", [node.inputs[0], name], node.output)


@dataclass(frozen=True, eq=False)
class MultiplyShift(Settled):
    """(η·c + B) >> d per channel."""

    def write(self, node: Node, writer: Writer) -> NodeProto:
        """The dialect's."""
        names = writer.shift_constants(node.output, self.constants)
        return dialect.node("MultiplyShift", [node.inputs[0], *names], node.output)


@dataclass(frozen=True, eq=False)
class SkipAdd(IntegerOperation):
    """The sum of two streams at a common scale (Eq. 7-8).

    In units of the result, `error` [C] bounds what this sum rounds, `accumulated_error` [C] what all did.
    """

    left: StreamConstants
    right: StreamConstants
    error: np.ndarray
    accumulated_error: np.ndarray

    def write(self, node: Node, writer: Writer) -> NodeProto:
        """The dialect's."""
        left = writer.shift_constants(node.output, self.left.constants, "a")
        right = writer.shift_constants(node.output, self.right.constants, "b")
        return dialect.node("SkipAdd", [*node.inputs, *left, *right], node.output)


@dataclass(frozen=True, eq=False)
class Requantize(Staircase, IntegerOperation):
    """clip((η·c + B) >> d, lo, hi) per channel."""

    solution: RequantizeSolution

    def write(self, node: Node, writer: Writer) -> NodeProto:
        """The dialect's."""
        quantizer = self.stairs.quantizer
        names = writer.shift_constants(node.output, self.solution.constants)
        return dialect.node(
            "Requantize",
            [node.inputs[0], *names],
            node.output,
            lo=quantizer.lo,
            hi=quantizer.hi,
            to=TYPES[self.dtype],
        )


@dataclass(frozen=True, eq=False)
class Threshold(Staircase, IntegerOperation):
    """The number of thresholds that η has reached, per channel."""

    def write(self, node: Node, writer: Writer) -> NodeProto:
        """The dialect's."""
        sign = dialect.per_channel(self.stairs.sign.tolist(), np.int32)
        table = self.stairs.thresholds.T[:, None, :, None, None].astype(np.int32)
        names = [writer.constant(f"{node.output}_sign", sign), writer.constant(f"{node.output}_T", table)]
        return dialect.node(
            "Threshold",
            [node.inputs[0], *names],
            node.output,
            lo=self.stairs.quantizer.lo,
            to=TYPES[self.dtype],
        )


REQUANTIZATIONS = (Requantize, Threshold)
