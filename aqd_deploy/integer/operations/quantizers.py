"""From streams to codes: Requantize by a multiply-shift, RequantizeMax by the larger of two, Threshold by
counting the steps reached.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from onnx import AttributeProto, NodeProto, TensorProto, helper

from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.integer import attributes as a
from aqd_deploy.integer.arithmetic import Arithmetic
from aqd_deploy.integer.graph import Graph, Node
from aqd_deploy.integer.operations import body
from aqd_deploy.integer.operations.entry import (
    PER_CHANNEL,
    TO,
    Function,
    Operand,
    elements,
    per_channel,
    source_interval,
)
from aqd_deploy.integer.operations.scaling import scale_body, scale_operands, scaled, scaled_interval
from aqd_deploy.integer.ranges import Interval


class _Quantizer(Function):
    """Its codes are of the type that the attribute `to` names."""

    returns = TO

    @abstractmethod
    def codes(self, node: Node, graph: Graph) -> tuple[int, int]:
        """lo and hi."""

    def check(self, node: Node, graph: Graph) -> None:
        """lo ≤ hi, both of the type `to`."""
        lo, hi = self.codes(node, graph)
        limits = np.iinfo(self.result(node, graph).dtype)
        if not limits.min <= lo <= hi <= limits.max:
            raise UnsupportedModelError(
                f"{node.label} clips to codes that {limits.dtype} does not hold in order",
                received=f"lo = {lo}, hi = {hi}",
                valid=f"{limits.min} <= lo <= hi <= {limits.max}",
            )


class Requantize(_Quantizer):
    """clip((x·c + B) >> d, lo, hi)."""

    name = "Requantize"
    operands = scale_operands()
    attributes: ClassVar = {"lo": a.CODE, "hi": a.CODE, "to": a.CODE_TYPE}

    def codes(self, node: Node, graph: Graph) -> tuple[int, int]:
        return node.attributes["lo"], node.attributes["hi"]

    def interval(self, node: Node, graph: Graph) -> Interval:
        return scaled_interval(node, graph, source_interval(node, graph)).clipped(*self.codes(node, graph))

    def arithmetic(self, node: Node, graph: Graph) -> Arithmetic:
        """A multiply-shift, and a comparison with each end."""
        count = elements(node, graph)
        return Arithmetic(products=count, sums=3 * count)

    def meaning(self, node: Node, graph: Graph, values: Sequence[np.ndarray]) -> np.ndarray:
        return np.clip(scaled(*values), *self.codes(node, graph))

    def body(self, op_type: str) -> list[NodeProto]:
        return [*scale_body("x", "wide"), *_clip_body()]


class RequantizeMax(_Quantizer):
    """clip(max((x·ca + Ba) >> da, (x·cb + Bb) >> db), lo, hi): the codes of a function with two slopes, as
    leaky ReLU is.
    """

    name = "RequantizeMax"
    operands = (*scale_operands("a"), *scale_operands("b"))
    attributes: ClassVar = {"lo": a.CODE, "hi": a.CODE, "to": a.CODE_TYPE}

    def codes(self, node: Node, graph: Graph) -> tuple[int, int]:
        return node.attributes["lo"], node.attributes["hi"]

    def interval(self, node: Node, graph: Graph) -> Interval:
        """Each multiply-shift is monotone, so the larger of both is largest at an end. Multiply-shifts of
        opposite slopes would be least between the ends: the larger of their least values is below that.
        """
        source = source_interval(node, graph)
        one, two = (scaled_interval(node, graph, source, suffix) for suffix in ("a", "b"))
        larger = Interval(np.maximum(one.lo, two.lo), np.maximum(one.hi, two.hi))
        return larger.clipped(*self.codes(node, graph))

    def arithmetic(self, node: Node, graph: Graph) -> Arithmetic:
        """Two multiply-shifts, and a comparison with each other and with each end."""
        count = elements(node, graph)
        return Arithmetic(products=2 * count, sums=5 * count)

    def meaning(self, node: Node, graph: Graph, values: Sequence[np.ndarray]) -> np.ndarray:
        larger = np.maximum(scaled(values[0], *values[1:4]), scaled(values[0], *values[4:7]))
        return np.clip(larger, *self.codes(node, graph))

    def body(self, op_type: str) -> list[NodeProto]:
        return [
            *scale_body("x", "one", "a"),
            *scale_body("x", "two", "b"),
            helper.make_node("Less", ["one", "two"], ["is_second"]),
            helper.make_node("Where", ["is_second", "two", "one"], ["wide"]),
            *_clip_body(),
        ]


def _clip_body() -> list[NodeProto]:
    """`wide` clipped by comparisons: Clip, Min and Max of onnxruntime compare int64 wrongly where bit 31 is
    set. (Eigen's SSE2 code, microsoft/onnxruntime#25280.)
    """
    return [
        body.constant_from("low", "lo", AttributeProto.INT),
        body.constant_from("high", "hi", AttributeProto.INT),
        helper.make_node("Less", ["wide", "low"], ["is_below"]),
        helper.make_node("Where", ["is_below", "low", "wide"], ["at_least_low"]),
        helper.make_node("Greater", ["at_least_low", "high"], ["is_above"]),
        helper.make_node("Where", ["is_above", "high", "at_least_low"], ["clipped"]),
        body.cast_from("clipped", "y", "to"),
    ]


class Threshold(_Quantizer):
    """lo + Σ_k [sign·x ≥ T_k]; `sign` is ±1."""

    name = "Threshold"
    operands = (Operand("sign", "int32", PER_CHANNEL), Operand("T", "int32", ("*", *PER_CHANNEL)))
    attributes: ClassVar = {"lo": a.CODE, "to": a.CODE_TYPE}

    def codes(self, node: Node, graph: Graph) -> tuple[int, int]:
        lo = node.attributes["lo"]
        return lo, lo + graph.operand(node, "T").shape[0]

    def arithmetic(self, node: Node, graph: Graph) -> Arithmetic:
        """A comparison and a sum a threshold."""
        return Arithmetic(sums=2 * elements(node, graph) * graph.operand(node, "T").shape[0])

    def interval(self, node: Node, graph: Graph) -> Interval:
        """Each threshold is reached everywhere, somewhere or nowhere in the range of sign·x."""
        source, sign = source_interval(node, graph), per_channel(node, graph, "sign")
        if not np.isin(sign, (-1, 1)).all():
            raise UnsupportedModelError(
                f"the sign of {node.label} has other values than 1 and -1",
                received=int(sign[~np.isin(sign, (-1, 1))][0]),
            )
        ends = source.lo * sign, source.hi * sign
        table = graph.operand(node, "T").reshape(-1, len(sign))
        reached = [(table <= end).sum(axis=0) for end in (np.minimum(*ends), np.maximum(*ends))]
        return Interval(node.attributes["lo"] + reached[0], node.attributes["lo"] + reached[1])

    def meaning(self, node: Node, graph: Graph, values: Sequence[np.ndarray]) -> np.ndarray:
        x, sign, table = values
        return node.attributes["lo"] + (sign * x >= table).sum(axis=0)

    def body(self, op_type: str) -> list[NodeProto]:
        return [
            helper.make_node("Mul", ["x", "sign"], ["signed"]),
            helper.make_node("GreaterOrEqual", ["signed", "T"], ["reached"]),
            helper.make_node("Cast", ["reached"], ["steps"], to=TensorProto.INT64),
            body.constant("axis", np.array([0], dtype=np.int64)),
            helper.make_node("ReduceSum", ["steps", "axis"], ["count"], keepdims=0),
            body.constant_from("low", "lo", AttributeProto.INT),
            helper.make_node("Add", ["count", "low"], ["level"]),
            body.cast_from("level", "y", "to"),
        ]
