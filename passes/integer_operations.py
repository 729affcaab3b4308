"""The operations that only the integer file has: int32 accumulators and streams, requantizations, tables.

Those that select or place elements are in `operations.py`, since real tensors know them too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto

from aqd_deploy.integer import dialect
from aqd_deploy.integer.fixedpoint import MultiplyShift as Constants
from aqd_deploy.integer.fixedpoint import RequantizeSolution
from aqd_deploy.integer.operations.pools import pool_name
from aqd_deploy.passes.graph import Node
from aqd_deploy.passes.operations import IntegerOperation, Staircase, Window
from aqd_deploy.passes.streams import StreamConstants
from aqd_deploy.passes.writer import TYPES, Writer

_PADDINGS = {"uint8": "PadImage", "int8": "PadSignedImage"}


@dataclass(frozen=True)
class PadImage(IntegerOperation):
    """8-bit codes, padded with a code of their own type per channel: [top, left, bottom, right]."""

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
class RequantizeMax(Staircase, IntegerOperation):
    """clip(max((η·ca + Ba) >> da, (η·cb + Bb) >> db), lo, hi) per channel; `deviations` [C] are the numbers
    of integers that get another code than their value's.
    """

    above: list[Constants]
    below: list[Constants]
    deviations: list[int]

    def write(self, node: Node, writer: Writer) -> NodeProto:
        """The dialect's."""
        quantizer = self.stairs.quantizer
        names = writer.shift_constants(node.output, self.above, "a")
        names += writer.shift_constants(node.output, self.below, "b")
        codes = {"lo": quantizer.lo, "hi": quantizer.hi, "to": TYPES[self.dtype]}
        return dialect.node("RequantizeMax", [node.inputs[0], *names], node.output, **codes)


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


@dataclass(frozen=True, eq=False)
class SharedThreshold(IntegerOperation):
    """Codes by one list of thresholds for all channels; the code may fall as well as rise.

    `deviations` [C] are the numbers of integers that get another code than their value's, `input_errors` [C]
    bounds in steps by how much the integers were rounded before.
    """

    thresholds: np.ndarray
    codes: np.ndarray
    deviations: list[int]
    input_errors: np.ndarray

    @property
    def name(self) -> str:
        """The dialect's word."""
        return "Steps"

    def write(self, node: Node, writer: Writer) -> NodeProto:
        """The dialect's Steps."""
        thresholds = writer.constant(f"{node.output}_T", self.thresholds.astype(np.int32))
        codes = writer.constant(f"{node.output}_codes", self.codes)
        to = TYPES[str(self.codes.dtype)]
        return dialect.node("Steps", [node.inputs[0], thresholds, codes], node.output, to=to)


REQUANTIZATIONS = (Requantize, RequantizeMax, Threshold, SharedThreshold)
