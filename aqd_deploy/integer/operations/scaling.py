"""(x·c + B) >> d per channel: MultiplyShift, and SkipAdd, which adds two of them (Eq. 7-8)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import NodeProto, TensorProto, helper

from aqd_deploy.errors import RangeError
from aqd_deploy.integer.arithmetic import Arithmetic
from aqd_deploy.integer.domain import C_BITS, MAX_SHIFT, PRODUCT_LIMIT
from aqd_deploy.integer.graph import Graph, Node
from aqd_deploy.integer.operations import body
from aqd_deploy.integer.operations.entry import (
    PER_CHANNEL,
    Function,
    Operand,
    elements,
    per_channel,
    source_interval,
)
from aqd_deploy.integer.ranges import Interval


def scale_operands(suffix: str = "") -> tuple[Operand, Operand, Operand]:
    """c, B and d, the constants of one multiply-shift."""
    return (
        Operand(f"c{suffix}", "int64", PER_CHANNEL),
        Operand(f"B{suffix}", "int64", PER_CHANNEL),
        Operand(f"d{suffix}", "uint64", PER_CHANNEL),
    )


class MultiplyShift(Function):
    """(x·c + B) >> d."""

    name = "MultiplyShift"
    operands = scale_operands()

    def interval(self, node: Node, graph: Graph) -> Interval:
        return scaled_interval(node, graph, source_interval(node, graph)).require_int32(node.name)

    def arithmetic(self, node: Node, graph: Graph) -> Arithmetic:
        count = elements(node, graph)
        return Arithmetic(products=count, sums=count)

    def meaning(self, node: Node, graph: Graph, values: Sequence[np.ndarray]) -> np.ndarray:
        return scaled(*values)

    def body(self, op_type: str) -> list[NodeProto]:
        nodes = scale_body("x", "wide")
        return [*nodes, helper.make_node("Cast", ["wide"], ["y"], to=TensorProto.INT32)]


class SkipAdd(Function):
    """A sum of two streams, each multiplied and shifted; both sides fit int32 on their own."""

    name = "SkipAdd"
    data = (2, 2)
    sources = ("a", "b")
    operands = (*scale_operands("a"), *scale_operands("b"))

    def interval(self, node: Node, graph: Graph) -> Interval:
        left, right = (
            scaled_interval(node, graph, graph.ranges[slot], suffix).require_int32(node.name)
            for slot, suffix in zip(node.slots[:2], self.sources, strict=True)
        )
        return Interval(left.lo + right.lo, left.hi + right.hi).require_int32(node.name)

    def arithmetic(self, node: Node, graph: Graph) -> Arithmetic:
        """A side whose constants leave it as it is costs nothing."""
        sides = sum(not _is_identity(node, graph, suffix) for suffix in self.sources)
        count = elements(node, graph)
        return Arithmetic(products=sides * count, sums=(sides + 1) * count)

    def meaning(self, node: Node, graph: Graph, values: Sequence[np.ndarray]) -> np.ndarray:
        return scaled(values[0], *values[2:5]) + scaled(values[1], *values[5:8])

    def body(self, op_type: str) -> list[NodeProto]:
        return [
            *scale_body("a", "left", "a"),
            *scale_body("b", "right", "b"),
            helper.make_node("Add", ["left", "right"], ["sum"]),
            helper.make_node("Cast", ["sum"], ["y"], to=TensorProto.INT32),
        ]


def _is_identity(node: Node, graph: Graph, suffix: str) -> bool:
    """Whether c, B and d of a side are 1, 0 and 0 in every channel."""
    wanted = {"c": 1, "B": 0, "d": 0}
    return all(
        bool((graph.operand(node, f"{name}{suffix}") == value).all()) for name, value in wanted.items()
    )


def scaled(x: np.ndarray, c: np.ndarray, b: np.ndarray, d: np.ndarray) -> np.ndarray:
    """(x·c + B) >> d, all int64."""
    return (x * c + b) >> d


def scaled_interval(node: Node, graph: Graph, source: Interval, suffix: str = "") -> Interval:
    """(x·c + B) >> d for x within `source`.

    c has at most 31 bits and a sign, d is from 0 to 62, and |x·c + B| < 2^62 over the range of x: RangeError
    where it is not so.
    """
    c = per_channel(node, graph, f"c{suffix}")
    limit = (1 << C_BITS) - 1
    _require(node, "multiplier c", c, (c >= -limit) & (c <= limit), f"{-limit} to {limit}")
    ends = source.lo * c, source.hi * c
    return shifted_interval(node, graph, Interval(np.minimum(*ends), np.maximum(*ends)), suffix)


def shifted_interval(node: Node, graph: Graph, product: Interval, suffix: str = "") -> Interval:
    """(p + B) >> d for p within `product`, which lies within ±2^62: RangeError where p + B doesn't."""
    b, d = per_channel(node, graph, f"B{suffix}"), graph.operand(node, f"d{suffix}").reshape(-1)
    _require(node, "shift d", d, d <= MAX_SHIFT, f"0 to {MAX_SHIFT}")
    low, high = product.lo, product.hi
    # Neither difference leaves int64, which the sum with an arbitrary B could.
    fits = (b > -PRODUCT_LIMIT - low) & (b < PRODUCT_LIMIT - high)
    if not fits.all():
        channel = int(np.argmin(fits))
        raise RangeError(
            f"x·c + B of {node.label} leaves 62 bits in channel {channel}",
            received=f"x·c in [{low[channel]}, {high[channel]}], B = {b[channel]}",
            valid="|x·c + B| < 2^62",
            next_command="aqd-deploy lower QDQ.onnx -o M.int.onnx, which writes constants that fit",
        )
    shift = d.astype(np.int64)
    return Interval((low + b) >> shift, (high + b) >> shift)


def _require(node: Node, what: str, values: np.ndarray, fits: np.ndarray, valid: str) -> None:
    if not fits.all():
        channel = int(np.argmin(fits))
        raise RangeError(
            f"the {what} of {node.label} is out of range in channel {channel}",
            received=int(values[channel]),
            valid=valid,
        )


def scale_body(x: str, output: str, suffix: str = "") -> list[NodeProto]:
    """(x·c + B) >> d in int64.

    ONNX's BitShift is unsigned, so the sum is moved up by 2^62, shifted, and moved down by 2^62 >> d, which
    is a whole number for d ≤ 62: the floor is that of the signed shift.
    """
    c, b, d = f"c{suffix}", f"B{suffix}", f"d{suffix}"

    def at(name: str) -> str:
        return f"{output}_{name}"

    return [
        body.constant(at("offset"), np.array(PRODUCT_LIMIT, dtype=np.int64)),
        body.constant(at("offset_u"), np.array(PRODUCT_LIMIT, dtype=np.uint64)),
        helper.make_node("Cast", [x], [at("x")], to=TensorProto.INT64),
        helper.make_node("Mul", [at("x"), c], [at("product")]),
        helper.make_node("Add", [at("product"), b], [at("sum")]),
        helper.make_node("Add", [at("sum"), at("offset")], [at("raised")]),
        helper.make_node("Cast", [at("raised")], [at("unsigned")], to=TensorProto.UINT64),
        helper.make_node("BitShift", [at("unsigned"), d], [at("shifted_u")], direction="RIGHT"),
        helper.make_node("Cast", [at("shifted_u")], [at("shifted")], to=TensorProto.INT64),
        helper.make_node("BitShift", [at("offset_u"), d], [at("lowered_u")], direction="RIGHT"),
        helper.make_node("Cast", [at("lowered_u")], [at("lowered")], to=TensorProto.INT64),
        helper.make_node("Sub", [at("shifted"), at("lowered")], [output]),
    ]
