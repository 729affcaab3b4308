"""Functions as tables: Lookup, of codes, and Steps, of a stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from onnx import NodeProto, TensorProto, helper

from aqd_deploy.errors import ShapeError, UnsupportedModelError
from aqd_deploy.integer import attributes as a
from aqd_deploy.integer.arithmetic import Arithmetic
from aqd_deploy.integer.graph import Graph, Node
from aqd_deploy.integer.operations import body
from aqd_deploy.integer.operations.entry import TO, Function, Operand, elements, source_interval
from aqd_deploy.integer.ranges import Interval
from aqd_deploy.integer.types import CODES

CODE_COUNT = 256
_SEARCH_BITS = 10
MAX_STEPS = (1 << _SEARCH_BITS) - 1
"""Thresholds of a Steps: what the search in its body finds its way through."""

_BEYOND = 1 << 31
"""A threshold that no int32 reaches."""


class Lookup(Function):
    """table[x]; a negative x counts from the end, as in ONNX Gather: the index is the byte of x."""

    name = "Lookup"
    accepts = CODES
    operands = (Operand("table", TO, (CODE_COUNT,)),)
    attributes: ClassVar = {"to": a.CODE_TYPE}
    returns = TO

    def codes(self, node: Node, graph: Graph) -> tuple[int, int]:
        table = graph.operand(node, "table")
        return int(table.min()), int(table.max())

    def interval(self, node: Node, graph: Graph) -> Interval:
        table, source = graph.operand(node, "table").astype(np.int64), source_interval(node, graph)
        reached = [table[np.arange(lo, hi + 1)] for lo, hi in zip(source.lo, source.hi, strict=True)]
        return Interval(np.array([r.min() for r in reached]), np.array([r.max() for r in reached]))

    def meaning(self, node: Node, graph: Graph, values: Sequence[np.ndarray]) -> np.ndarray:
        x, table = values
        return table[x]

    def body(self, op_type: str) -> list[NodeProto]:
        return [
            helper.make_node("Cast", ["x"], ["index"], to=TensorProto.INT64),
            helper.make_node("Gather", ["table", "index"], ["found"]),
            body.cast_from("found", "y", "to"),
        ]


class Steps(Function):
    """codes[#{k: T_k ≤ x}]: one ascending table for all channels, for functions that may rise and fall."""

    name = "Steps"
    operands = (Operand("T", "int32", ("*",)), Operand("codes", TO, ("*",)))
    attributes: ClassVar = {"to": a.CODE_TYPE}
    returns = TO

    def check(self, node: Node, graph: Graph) -> None:
        """One code more than thresholds, which ascend."""
        thresholds, codes = graph.operand(node, "T"), graph.operand(node, "codes")
        if len(codes) != len(thresholds) + 1 or len(thresholds) > MAX_STEPS:
            raise ShapeError(
                f"{node.label} has another number of codes or thresholds",
                received=f"{len(codes)} codes, {len(thresholds)} thresholds",
                valid=f"one code more than thresholds, of which there are up to {MAX_STEPS}",
            )
        if (thresholds[1:] < thresholds[:-1]).any():
            raise UnsupportedModelError(f"the thresholds of {node.label} do not ascend")

    def codes(self, node: Node, graph: Graph) -> tuple[int, int]:
        codes = graph.operand(node, "codes")
        return int(codes.min()), int(codes.max())

    def arithmetic(self, node: Node, graph: Graph) -> Arithmetic:
        """The comparisons of a binary search."""
        return Arithmetic(sums=elements(node, graph) * len(graph.operand(node, "T")).bit_length())

    def interval(self, node: Node, graph: Graph) -> Interval:
        codes, source = graph.operand(node, "codes").astype(np.int64), source_interval(node, graph)
        thresholds = graph.operand(node, "T")
        first, last = (np.searchsorted(thresholds, end, side="right") for end in (source.lo, source.hi))
        reached = [codes[lo : hi + 1] for lo, hi in zip(first, last, strict=True)]
        return Interval(np.array([r.min() for r in reached]), np.array([r.max() for r in reached]))

    def meaning(self, node: Node, graph: Graph, values: Sequence[np.ndarray]) -> np.ndarray:
        x, thresholds, codes = values
        return codes[np.searchsorted(thresholds, x, side="right")]

    def body(self, op_type: str) -> list[NodeProto]:
        return [
            *search_body("reached"),
            helper.make_node("Gather", ["codes", "reached"], ["found"]),
            body.cast_from("found", "y", "to"),
        ]


def search_body(output: str) -> list[NodeProto]:
    """#{k: T_k ≤ x}, int64, of up to MAX_STEPS ascending T.

    A binary search: comparisons with every threshold would take memory for each.
    """
    nodes = [
        body.constant("most", np.array([MAX_STEPS], dtype=np.int64)),
        body.constant("none", np.array([0], dtype=np.int64)),
        body.constant("beyond", np.array(_BEYOND, dtype=np.int64)),
        helper.make_node("Cast", ["x"], ["wide"], to=TensorProto.INT64),
        helper.make_node("Cast", ["T"], ["thresholds"], to=TensorProto.INT64),
        helper.make_node("Shape", ["T"], ["count"]),
        helper.make_node("Sub", ["most", "count"], ["missing"]),
        helper.make_node("Concat", ["none", "missing"], ["amount"], axis=0),
        helper.make_node("Pad", ["thresholds", "amount", "beyond"], ["padded"]),
        helper.make_node("Sub", ["wide", "wide"], [f"reached_{_SEARCH_BITS}"]),
    ]
    for bit in reversed(range(_SEARCH_BITS)):
        before, after = f"reached_{bit + 1}", f"reached_{bit}" if bit else output
        nodes += [
            body.constant(f"last_{bit}", np.array((1 << bit) - 1, dtype=np.int64)),
            body.constant(f"size_{bit}", np.array(1 << bit, dtype=np.int64)),
            helper.make_node("Add", [before, f"last_{bit}"], [f"at_{bit}"]),
            helper.make_node("Gather", ["padded", f"at_{bit}"], [f"threshold_{bit}"]),
            helper.make_node("GreaterOrEqual", ["wide", f"threshold_{bit}"], [f"beyond_{bit}"]),
            helper.make_node("Add", [before, f"size_{bit}"], [f"further_{bit}"]),
            helper.make_node("Where", [f"beyond_{bit}", f"further_{bit}", before], [after]),
        ]
    return nodes
