"""Operations of the integer file that other networks than AQD's need: tables, products, sums of windows,
linear upsampling, selections and weights of 9 bits. Typed and frozen as those of `operations`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto

from aqd_deploy.integer import dialect
from aqd_deploy.passes.graph import Node
from aqd_deploy.passes.integer_operations import Accumulators
from aqd_deploy.passes.operations import IntegerOperation, Plain, Window
from aqd_deploy.passes.writer import TYPES, Writer


@dataclass(frozen=True, eq=False)
class ConvOffset(Accumulators):
    """Weights of 9 bits, `weights` = w + `offset` [O] with w in int8. Its inputs are the codes, w and the
    zero point, a scalar of the codes' type.
    """

    offset: np.ndarray

    def write(self, node: Node, writer: Writer) -> NodeProto:
        """The dialect's, with ones for the sums of windows."""
        (x, w, zero_point), attributes = self.parts(node, writer)
        shape = (self.weights.shape[0] if self.group > 1 else 1, *self.weights.shape[1:])
        ones = writer.once(f"ones_{'x'.join(map(str, shape))}", np.ones(shape, dtype=np.int8))
        values = dialect.per_channel(self.offset.tolist(), np.int32)
        offset = writer.constant(f"{node.output}_offset", values)
        return dialect.node("ConvOffset", [x, w, ones, offset, zero_point], node.output, **attributes)


@dataclass(frozen=True)
class SumPool(IntegerOperation):
    """int32 sums of codes over windows; `pad_value` is the code of the padding."""

    window: Window
    pad_value: int

    def write(self, node: Node, writer: Writer) -> NodeProto:
        """The dialect's."""
        w = self.window
        return dialect.node(
            "SumPool",
            node.inputs,
            node.output,
            kernel_shape=w.kernel,
            strides=w.strides,
            pads=w.pads,
            pad_value=self.pad_value,
        )


@dataclass(frozen=True)
class StreamSumPool(IntegerOperation):
    """int32 sums of a stream over windows; the padding is 0."""

    window: Window

    def write(self, node: Node, writer: Writer) -> NodeProto:
        """The dialect's."""
        w = self.window
        places = {"kernel_shape": w.kernel, "strides": w.strides, "pads": w.pads}
        return dialect.node("StreamSumPool", node.inputs, node.output, **places)


@dataclass(frozen=True)
class ResizeLinear(IntegerOperation):
    """Linear upsampling by whole factors (rows, columns), half_pixel or asymmetric: an int32 stream `gain`
    times as large.
    """

    factors: tuple[int, int]
    half_pixel: bool

    @property
    def gain(self) -> int:
        """The sum of the integer weights."""
        return 2 * self.factors[0] * 2 * self.factors[1]

    def write(self, node: Node, writer: Writer) -> NodeProto:
        """The dialect's."""
        half = int(self.half_pixel)
        return dialect.node("ResizeLinear", node.inputs, node.output, factors=self.factors, half_pixel=half)


@dataclass(frozen=True)
class Multiply(IntegerOperation):
    """(a − za)·(b − zb) of codes, int32; b may have one pixel."""

    zero_points: tuple[int, int]

    def write(self, node: Node, writer: Writer) -> NodeProto:
        """The dialect's; zero points that are equal share a constant."""
        zeros = [writer.once(f"zero_point_{z}", np.array(z, dtype=np.int32)) for z in self.zero_points]
        return dialect.node("Multiply", [*node.inputs, *zeros], node.output)


@dataclass(frozen=True)
class StreamMultiply(IntegerOperation):
    """(a·b + B) >> d of streams, half of 2^d in B: one shift a channel; b may have one pixel."""

    shifts: tuple[int, ...]

    def write(self, node: Node, writer: Writer) -> NodeProto:
        """The dialect's."""
        halves = dialect.per_channel([1 << d >> 1 for d in self.shifts], np.int64)
        b = writer.constant(f"{node.output}_B", halves)
        d = writer.constant(f"{node.output}_d", dialect.per_channel(list(self.shifts), np.uint64))
        return dialect.node("StreamMultiply", [*node.inputs, b, d], node.output)


@dataclass(frozen=True, eq=False)
class Lookup(IntegerOperation):
    """A function of codes: `table` [256] by the byte of the code, so those of negative codes come last."""

    table: np.ndarray

    @staticmethod
    def by_code(values: Sequence[int], source: str, dtype: str) -> Lookup:
        """Of `values` of the codes of type `source`, from its least on; they are codes of type `dtype`."""
        shift = int(np.iinfo(source).min)
        return Lookup(np.roll(np.array(values, dtype=dtype), shift))

    def write(self, node: Node, writer: Writer) -> NodeProto:
        """The dialect's."""
        table = writer.constant(f"{node.output}_table", self.table)
        return dialect.node("Lookup", [node.inputs[0], table], node.output, to=TYPES[str(self.table.dtype)])


@dataclass(frozen=True, eq=False)
class Pieces(IntegerOperation):
    """A function of a stream in straight pieces: (x·c + B) >> d, each [K + 1], between `thresholds` [K]."""

    thresholds: np.ndarray
    c: np.ndarray
    b: np.ndarray
    d: np.ndarray

    def write(self, node: Node, writer: Writer) -> NodeProto:
        """The dialect's."""
        constants = [
            writer.constant(f"{node.output}_{name}", values)
            for name, values in (
                ("T", self.thresholds.astype(np.int32)),
                ("c", self.c.astype(np.int64)),
                ("B", self.b.astype(np.int64)),
                ("d", self.d.astype(np.uint64)),
            )
        ]
        return dialect.node("Pieces", [node.inputs[0], *constants], node.output)


@dataclass(frozen=True)
class DepthToSpace(Plain):
    """Squares of channels become squares of pixels; `mode` CRD or DCR as ONNX has it."""

    blocksize: int
    mode: str

    def write(self, node: Node, writer: Writer) -> NodeProto:
        """The dialect's."""
        name = f"DepthToSpace_{self.mode}"
        return dialect.node(name, node.inputs, node.output, blocksize=self.blocksize)


@dataclass(frozen=True)
class Slice(Plain):
    """Of channels, rows and columns: a (start, end, step) for each of the `axes`, 1 to 3."""

    axes: tuple[int, ...]
    bounds: tuple[tuple[int, int, int], ...]

    def write(self, node: Node, writer: Writer) -> NodeProto:
        """ONNX's own."""
        starts, ends, steps = zip(*self.bounds, strict=True)
        constants = [
            writer.constant(f"{node.output}_{name}", np.array(values, dtype=np.int64))
            for name, values in (("starts", starts), ("ends", ends), ("axes", self.axes), ("steps", steps))
        ]
        return dialect.standard_node("Slice", [node.inputs[0], *constants], node.output)


@dataclass(frozen=True)
class Gather(Plain):
    """Of channels, in the order of `channels`."""

    channels: tuple[int, ...]

    def write(self, node: Node, writer: Writer) -> NodeProto:
        """ONNX's own."""
        indices = writer.constant(f"{node.output}_indices", np.array(self.channels, dtype=np.int64))
        return dialect.standard_node("Gather", [node.inputs[0], indices], node.output, axis=1)


@dataclass(frozen=True, eq=False)
class Rearrange(Plain):
    """Elements in any order: `indices` [C', H', W'] are places in the input [C, H, W]."""

    indices: np.ndarray

    def write(self, node: Node, writer: Writer) -> NodeProto:
        """The dialect's."""
        indices = writer.constant(f"{node.output}_indices", self.indices.astype(np.int32))
        return dialect.node("Rearrange", [node.inputs[0], indices], node.output)


@dataclass(frozen=True, eq=False)
class _Bound(IntegerOperation):
    """A clip on one side: `bound` int32, one number or one a channel."""

    bound: np.ndarray

    def write(self, node: Node, writer: Writer) -> NodeProto:
        """ONNX's own."""
        values = np.asarray(self.bound, dtype=np.int32)
        values = values.reshape(1, -1, 1, 1) if values.ndim else values
        bound = writer.constant(f"{node.output}_bound", values)
        return dialect.standard_node(self.name, [node.inputs[0], bound], node.output)


@dataclass(frozen=True, eq=False)
class Floor(_Bound):
    """max(η, bound)."""

    @property
    def name(self) -> str:
        """ONNX's word."""
        return "Max"


@dataclass(frozen=True, eq=False)
class Top(_Bound):
    """min(η, bound)."""

    @property
    def name(self) -> str:
        """ONNX's word."""
        return "Min"
