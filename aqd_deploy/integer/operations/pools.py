"""Pools: ONNX's MaxPool on codes, on streams one function a configuration, MaxPool_k{K}s{S}p{P}; sums of
windows, SumPool and StreamSumPool.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import onnx
from onnx import AttributeProto, NodeProto, TensorProto, helper

from aqd_deploy.errors import ShapeError, UnsupportedModelError
from aqd_deploy.integer import attributes as a
from aqd_deploy.integer.arithmetic import Arithmetic
from aqd_deploy.integer.attributes import Attribute
from aqd_deploy.integer.domain import INT32_MIN
from aqd_deploy.integer.graph import Graph, Node
from aqd_deploy.integer.operations import body
from aqd_deploy.integer.operations.entry import (
    SAME,
    Function,
    Operation,
    elements,
    source_interval,
    source_type,
)
from aqd_deploy.integer.operations.windows import check_auto_pad, window_counts, windows
from aqd_deploy.integer.ranges import Interval
from aqd_deploy.integer.types import CODES, SMALL_POOL, pool_fits

# One name a configuration: no leading zeros. No detector has larger windows than 9999.
_POOL_NAME = re.compile(r"MaxPool_k([1-9][0-9]{0,3})s([1-9][0-9]{0,3})p(0|[1-9][0-9]{0,3})")


def pool_name(kernel: int, stride: int, pad: int) -> str:
    """Name of the s32 max-pool function of a square configuration, for example `MaxPool_k3s2p1`."""
    return f"MaxPool_k{kernel}s{stride}p{pad}"


def parse_pool_name(op_type: str) -> tuple[int, int, int] | None:
    """(kernel, stride, pad) of a `MaxPool_k{K}s{S}p{P}` op type, None for any other name."""
    match = _POOL_NAME.fullmatch(op_type)
    return (int(match[1]), int(match[2]), int(match[3])) if match else None


def pool_geometry(node: Node) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int, int, int]]:
    """Kernel, strides and pads (top, left, bottom, right) of a max-pool."""
    named = parse_pool_name(node.op)
    if named is not None:
        k, s, p = named
        return (k, k), (s, s), (p, p, p, p)
    return node.attributes["kernel_shape"], node.attributes["strides"], node.attributes["pads"]


class _Pool(Operation):
    """One value of each window."""

    def check(self, node: Node, graph: Graph) -> None:
        """Each pad is smaller than the kernel: a window of padding alone would have no maximum."""
        kernel, _, pads = pool_geometry(node)
        x = source_type(node, graph)
        if not pool_fits(kernel, (x.height, x.width)):
            raise ShapeError(
                f"the window of {node.label} is far larger than its tensor",
                received=f"kernel {list(kernel)}, {x.height} x {x.width} elements",
                valid=f"up to {SMALL_POOL}, or twice the tensor's size",
            )
        if max(pads[0], pads[2]) >= kernel[0] or max(pads[1], pads[3]) >= kernel[1]:
            raise ShapeError(
                f"a window of {node.label} could lie in the padding alone",
                received=f"kernel {list(kernel)}, pads {list(pads)}",
                valid="pads smaller than the kernel",
            )

    def shape(self, node: Node, graph: Graph) -> tuple[int, int, int]:
        x = source_type(node, graph)
        return *window_counts(node, x, *pool_geometry(node)), x.channels

    def arithmetic(self, node: Node, graph: Graph) -> Arithmetic:
        """A comparison or a sum for each but the first of a window."""
        kernel, _, _ = pool_geometry(node)
        return Arithmetic(sums=elements(node, graph) * (kernel[0] * kernel[1] - 1))


class _MaxPool(_Pool):
    """The largest value of each window. Padding never wins."""

    returns = SAME
    moves_data = True

    def interval(self, node: Node, graph: Graph) -> Interval:
        return source_interval(node, graph)

    def meaning(self, node: Node, graph: Graph, values: Sequence[np.ndarray]) -> np.ndarray:
        lowest = int(values[0].min())
        return windows(values[0], *pool_geometry(node), lowest).max(axis=(3, 4))[None]


class MaxPool(_MaxPool):
    """ONNX's own, on codes."""

    name = "MaxPool"
    accepts = CODES
    attributes: ClassVar = {
        "kernel_shape": a.pair(None),
        "strides": a.pair(),
        "pads": a.PADS,
        "dilations": a.NO_DILATIONS,
        "ceil_mode": a.ZERO,
        "storage_order": a.ZERO,
        "auto_pad": a.AUTO_PAD,
    }

    def check(self, node: Node, graph: Graph) -> None:
        check_auto_pad(node)
        super().check(node, graph)


class StreamMaxPool(_MaxPool, Function):
    """Max-pool on s32, which onnxruntime lacks; the configuration is in the name."""

    name = "MaxPool_k{K}s{S}p{P}"

    def matches(self, op_type: str) -> bool:
        return parse_pool_name(op_type) is not None

    def smallest_body(self, op_type: str) -> int:
        """It grows with the kernel, which may be 9999."""
        return _configuration(op_type)[0]

    def body(self, op_type: str) -> list[NodeProto]:
        """Separable max over rows, then columns; the padding is the smallest int32, so it never wins."""
        kernel, stride, pad = _configuration(op_type)
        nodes = [
            body.constant("amount", np.array([0, 0, pad, pad, 0, 0, pad, pad], dtype=np.int64)),
            body.constant("lowest", np.array(INT32_MIN, dtype=np.int32)),
            helper.make_node("Pad", ["x", "amount", "lowest"], ["padded"]),
            body.constant("step", np.array([stride], dtype=np.int64)),
        ]
        for i in range(kernel):
            end = np.iinfo(np.int64).max if i == kernel - 1 else i - kernel + 1
            nodes.append(body.constant(f"start_{i}", np.array([i], dtype=np.int64)))
            nodes.append(body.constant(f"end_{i}", np.array([end], dtype=np.int64)))
        source = "padded"
        for label, axis, output in (("row", 2, "rows"), ("column", 3, "y")):
            nodes.append(body.constant(f"{label}_axis", np.array([axis], dtype=np.int64)))
            parts = [f"{label}_{i}" for i in range(kernel)]
            for i, part in enumerate(parts):
                inputs = [source, f"start_{i}", f"end_{i}", f"{label}_axis", "step"]
                nodes.append(helper.make_node("Slice", inputs, [part]))
            nodes.append(helper.make_node("Max", parts, [output]))
            source = output
        return nodes


class _SumPool(_Pool, Function):
    """The sum of each window, as a stream. The sum of a whole map is that of one window."""

    geometry: ClassVar = {"kernel_shape": a.pair(None), "strides": a.pair(), "pads": a.PADS}

    def padding(self, node: Node) -> int:
        """What the padding counts as."""
        return 0

    def interval(self, node: Node, graph: Graph) -> Interval:
        source, (kernel, _, pads) = source_interval(node, graph), pool_geometry(node)
        if any(pads):
            value = self.padding(node)
            source = Interval(np.minimum(source.lo, value), np.maximum(source.hi, value))
        count = kernel[0] * kernel[1]
        return Interval(source.lo * count, source.hi * count).require_int32(node.name)

    def meaning(self, node: Node, graph: Graph, values: Sequence[np.ndarray]) -> np.ndarray:
        return windows(values[0], *pool_geometry(node), self.padding(node)).sum(axis=(3, 4))[None]


class SumPool(_SumPool):
    """Of codes; what is padded is the code `pad_value`."""

    name = "SumPool"
    accepts = CODES
    attributes: ClassVar = {
        **_SumPool.geometry,
        "pad_value": Attribute(AttributeProto.INT, 0, low=-128, high=255),
    }

    def check(self, node: Node, graph: Graph) -> None:
        """The padding is a code of the input's type."""
        super().check(node, graph)
        limits, value = np.iinfo(source_type(node, graph).dtype), self.padding(node)
        if not limits.min <= value <= limits.max:
            raise UnsupportedModelError(
                f"the pad_value of {node.label} is no code of its input",
                received=value,
                valid=f"{limits.min} to {limits.max}",
            )

    def padding(self, node: Node) -> int:
        return int(node.attributes["pad_value"])

    def body(self, op_type: str) -> list[NodeProto]:
        """A ConvInteger with weights of 1 and one channel a sample, whose zero point is the padding:
        Σ (x − z), to which z times the window's size is added.
        """
        sums = helper.make_node("ConvInteger", ["samples", "ones", "zero_point"], ["centred"])
        sums.attribute.extend(body.attribute_of_node(n, n, AttributeProto.INTS) for n in ("strides", "pads"))
        one = onnx.numpy_helper.from_array(np.ones(1, np.int8))
        return [
            body.constant_from("value", "pad_value", AttributeProto.INT),
            body.constant_from("kernel", "kernel_shape", AttributeProto.INTS),
            body.constant("each", np.array([1, 1], dtype=np.int64)),
            helper.make_node("CastLike", ["value", "x"], ["zero_point"]),
            helper.make_node("Concat", ["each", "kernel"], ["shape"], axis=0),
            helper.make_node("ConstantOfShape", ["shape"], ["ones"], value=one),
            helper.make_node("Transpose", ["x"], ["samples"], perm=[1, 0, 2, 3]),
            sums,
            helper.make_node("ReduceProd", ["kernel"], ["count"], keepdims=0),
            helper.make_node("Mul", ["count", "value"], ["missing_wide"]),
            helper.make_node("Cast", ["missing_wide"], ["missing"], to=TensorProto.INT32),
            helper.make_node("Add", ["centred", "missing"], ["total"]),
            helper.make_node("Transpose", ["total"], ["y"], perm=[1, 0, 2, 3]),
        ]


class StreamSumPool(_SumPool):
    """Of int32, which ConvInteger doesn't take; the padding is 0."""

    name = "StreamSumPool"
    attributes: ClassVar = _SumPool.geometry

    def body(self, op_type: str) -> list[NodeProto]:
        """Differences of running sums in int64, over rows, then columns. One more row and column of zeros is
        where the last window's sum ends.
        """
        nodes = [
            *(
                body.constant_from(name, reference, AttributeProto.INTS)
                for name, reference in (("kernel", "kernel_shape"), ("stride", "strides"), ("around", "pads"))
            ),
            body.constant("none", np.array([0, 0], dtype=np.int64)),
            body.constant("one", np.array([0, 0, 1, 1], dtype=np.int64)),
            body.constant("zero", np.array([0], dtype=np.int64)),
            body.constant("last", np.array([np.iinfo(np.int64).max], dtype=np.int64)),
            helper.make_node("Add", ["around", "one"], ["completed"]),
            helper.make_node("Split", ["completed"], ["before", "after"], axis=0, num_outputs=2),
            helper.make_node("Concat", ["none", "before", "none", "after"], ["amount"], axis=0),
            helper.make_node("Cast", ["x"], ["wide"], to=TensorProto.INT64),
            helper.make_node("Pad", ["wide", "amount"], ["padded"]),
            helper.make_node("Split", ["kernel"], ["row_size", "column_size"], axis=0, num_outputs=2),
            helper.make_node("Split", ["stride"], ["row_step", "column_step"], axis=0, num_outputs=2),
        ]
        for label, axis, source, output in (("row", 2, "padded", "rows"), ("column", 3, "rows", "total")):
            nodes += [
                body.constant(f"{label}_axis", np.array([axis], dtype=np.int64)),
                helper.make_node("Neg", [f"{label}_size"], [f"{label}_end"]),
                helper.make_node("CumSum", [source, f"{label}_axis"], [f"{label}_sums"], exclusive=1),
                *(
                    helper.make_node(
                        "Slice", [f"{label}_sums", first, last, f"{label}_axis", f"{label}_step"], [found]
                    )
                    for first, last, found in (
                        (f"{label}_size", "last", f"{label}_behind"),
                        ("zero", f"{label}_end", f"{label}_before"),
                    )
                ),
                helper.make_node("Sub", [f"{label}_behind", f"{label}_before"], [output]),
            ]
        return [*nodes, helper.make_node("Cast", ["total"], ["y"], to=TensorProto.INT32)]


def _configuration(op_type: str) -> tuple[int, int, int]:
    found = parse_pool_name(op_type)
    if found is None:
        raise KeyError(op_type)
    return found
