"""Products of two computed tensors: Multiply."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import NodeProto, TensorProto, helper

from aqd_deploy.errors import ShapeError
from aqd_deploy.integer.graph import Graph, Node
from aqd_deploy.integer.operations.entry import Function, Operand
from aqd_deploy.integer.ranges import Interval
from aqd_deploy.integer.types import CODES, TensorType


class Multiply(Function):
    """(a − za)·(b − zb) of codes, as a stream; b is of a's size, or [1, C, 1, 1] for all pixels."""

    name = "Multiply"
    data = (2, 2)
    sources = ("a", "b")
    accepts = CODES
    operands = (Operand("a_zero_point", "int32", ()), Operand("b_zero_point", "int32", ()))

    def check_sources(self, label: str, types: Sequence[TensorType]) -> None:
        """The types of codes may differ."""
        a, b = types
        if b.shape not in (a.shape, (1, 1, a.channels)):
            raise ShapeError(
                f"{label} multiplies unlike tensors",
                received=[list(kind.nchw) for kind in types],
                valid="two of one size, or a second one of one pixel",
            )

    def interval(self, node: Node, graph: Graph) -> Interval:
        a, b = (
            graph.ranges[slot].shifted(-graph.operand(node, f"{name}_zero_point").astype(np.int64))
            for slot, name in zip(node.slots[:2], self.sources, strict=True)
        )
        ends = np.stack([a.lo * b.lo, a.lo * b.hi, a.hi * b.lo, a.hi * b.hi])
        return Interval(ends.min(axis=0), ends.max(axis=0)).require_int32(node.name)

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
