"""Products of two computed tensors: Multiply, of codes, and StreamMultiply."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import NodeProto, TensorProto, helper

from aqd_deploy.errors import ShapeError
from aqd_deploy.integer.arithmetic import Arithmetic
from aqd_deploy.integer.graph import Graph, Node
from aqd_deploy.integer.operations.entry import PER_CHANNEL, Function, Operand, elements
from aqd_deploy.integer.operations.scaling import scale_body, scaled, shifted_interval
from aqd_deploy.integer.ranges import Interval
from aqd_deploy.integer.types import CODES, TensorType


class _Product(Function):
    """b is of a's size, or [1, C, 1, 1] for all pixels."""

    data = (2, 2)
    sources = ("a", "b")

    def check_sources(self, label: str, types: Sequence[TensorType]) -> None:
        """The types of codes may differ."""
        a, b = types
        if b.shape not in (a.shape, (1, 1, a.channels)):
            raise ShapeError(
                f"{label} multiplies unlike tensors",
                received=[list(kind.nchw) for kind in types],
                valid="two of one size, or a second one of one pixel",
            )


class Multiply(_Product):
    """(a − za)·(b − zb) of codes, as a stream."""

    name = "Multiply"
    accepts = CODES
    operands = (Operand("a_zero_point", "int32", ()), Operand("b_zero_point", "int32", ()))

    def interval(self, node: Node, graph: Graph) -> Interval:
        a, b = (
            graph.ranges[slot].shifted(-graph.operand(node, f"{name}_zero_point").astype(np.int64))
            for slot, name in zip(node.slots[:2], self.sources, strict=True)
        )
        return _product(a, b).require_int32(node.name)

    def arithmetic(self, node: Node, graph: Graph) -> Arithmetic:
        """Both zero points are taken off."""
        count = elements(node, graph)
        return Arithmetic(products=count, sums=2 * count)

    def meaning(self, node: Node, graph: Graph, values: Sequence[np.ndarray]) -> np.ndarray:
        a, b, a_zero_point, b_zero_point = values
        return (a - a_zero_point) * (b - b_zero_point)

    def body(self, op_type: str) -> list[NodeProto]:
        nodes = []
        for name in self.sources:
            nodes += [
                helper.make_node("Cast", [name], [f"{name}_wide"], to=TensorProto.INT32),
                helper.make_node("Sub", [f"{name}_wide", f"{name}_zero_point"], [f"{name}_centred"]),
            ]
        return [*nodes, helper.make_node("Mul", ["a_centred", "b_centred"], ["y"])]


class StreamMultiply(_Product):
    """(a·b + B) >> d of streams, as a MultiplyShift whose multiplier is computed."""

    name = "StreamMultiply"
    operands = (Operand("B", "int64", PER_CHANNEL), Operand("d", "uint64", PER_CHANNEL))

    def interval(self, node: Node, graph: Graph) -> Interval:
        """RangeError where a·b + B leaves 62 bits."""
        found = _product(*(graph.ranges[slot] for slot in node.slots[:2]))
        return shifted_interval(node, graph, found).require_int32(node.name)

    def arithmetic(self, node: Node, graph: Graph) -> Arithmetic:
        count = elements(node, graph)
        return Arithmetic(products=count, sums=count)

    def meaning(self, node: Node, graph: Graph, values: Sequence[np.ndarray]) -> np.ndarray:
        return scaled(*values)

    def body(self, op_type: str) -> list[NodeProto]:
        return [
            helper.make_node("Cast", ["b"], ["c"], to=TensorProto.INT64),
            *scale_body("a", "wide"),
            helper.make_node("Cast", ["wide"], ["y"], to=TensorProto.INT32),
        ]


def _product(a: Interval, b: Interval) -> Interval:
    ends = np.stack([a.lo * b.lo, a.lo * b.hi, a.hi * b.lo, a.hi * b.hi])
    return Interval(ends.min(axis=0), ends.max(axis=0))
