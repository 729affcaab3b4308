"""Upsampling between neighbours: ResizeLinear."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from onnx import AttributeProto, NodeProto, TensorProto, helper

from aqd_deploy.errors import ShapeError
from aqd_deploy.integer import attributes as a
from aqd_deploy.integer.arithmetic import Arithmetic
from aqd_deploy.integer.attributes import Attribute
from aqd_deploy.integer.graph import Graph, Node
from aqd_deploy.integer.operations import body
from aqd_deploy.integer.operations.entry import ANY, Function, elements, source_interval, source_type
from aqd_deploy.integer.ranges import Interval
from aqd_deploy.integer.types import MAX_RESIZED

_AXES = ((2, 0, "row"), (3, 1, "column"))


class ResizeLinear(Function):
    """ONNX's linear Resize by whole factors, times 2·fy·2·fx: Σ wy·wx·x, with the edges repeated.

    Place j of the result lies at t/(2f) among the places of x, t = 2j where `half_pixel` is 0 (ONNX's
    asymmetric) and t = 2j + 1 − f where it is 1; the weights of its neighbours add up to 2f.
    """

    name = "ResizeLinear"
    accepts = ANY
    attributes: ClassVar = {
        "factors": a.pair(None),
        "half_pixel": Attribute(AttributeProto.INT, required=True, choices=(0, 1)),
    }

    def shape(self, node: Node, graph: Graph) -> tuple[int, int, int]:
        x = source_type(node, graph)
        height, width = (n * f for n, f in zip((x.height, x.width), node.attributes["factors"], strict=True))
        if max(height, width) > MAX_RESIZED:
            raise ShapeError(
                f"{node.label} makes too many rows or columns",
                received=f"{height} x {width}",
                valid=f"up to {MAX_RESIZED}",
            )
        return height, width, x.channels

    def interval(self, node: Node, graph: Graph) -> Interval:
        source, (rows, columns) = source_interval(node, graph), node.attributes["factors"]
        total = 2 * rows * 2 * columns
        return Interval(source.lo * total, source.hi * total).require_int32(node.name)

    def arithmetic(self, node: Node, graph: Graph) -> Arithmetic:
        """Two products and a sum for each axis, the rows first."""
        count, (_, columns) = elements(node, graph), node.attributes["factors"]
        rows = count // columns
        return Arithmetic(products=2 * (rows + count), sums=rows + count)

    def meaning(self, node: Node, graph: Graph, values: Sequence[np.ndarray]) -> np.ndarray:
        (x,) = values
        half_pixel = node.attributes["half_pixel"]
        for axis, factor in zip((2, 3), node.attributes["factors"], strict=True):
            before, after, weight = linear_taps(x.shape[axis], factor, half_pixel)
            weight = np.expand_dims(weight, tuple(range(1, 4 - axis)))
            x = x.take(before, axis) * (2 * factor - weight) + x.take(after, axis) * weight
        return x

    def body(self, op_type: str) -> list[NodeProto]:
        """Indices and weights in int32, one axis after the other."""

        def number(name: str, value: int) -> NodeProto:
            return body.constant(name, np.array(value, dtype=np.int32))

        nodes = [
            body.constant_from("factors_wide", "factors", AttributeProto.INTS),
            body.constant_from("half_wide", "half_pixel", AttributeProto.INT),
            helper.make_node("Cast", ["factors_wide"], ["all_factors"], to=TensorProto.INT32),
            helper.make_node("Cast", ["half_wide"], ["half"], to=TensorProto.INT32),
            *(number(name, value) for name, value in (("zero", 0), ("one", 1), ("two", 2))),
            helper.make_node("Cast", ["x"], ["source_2"], to=TensorProto.INT32),
        ]
        for axis, place, label in _AXES:
            nodes += _axis_body(axis, place, label, "y" if axis == 3 else f"source_{axis + 1}")
        return nodes


def _axis_body(axis: int, place: int, label: str, output: str) -> list[NodeProto]:
    """`source_{axis}` → `output`, upsampled along one axis."""

    def at(name: str) -> str:
        return f"{label}_{name}"

    def make(op: str, inputs: list[str], output: str, **attributes: Any) -> NodeProto:
        return helper.make_node(op, inputs, [output], **attributes)

    shape = [-1] + [1] * (3 - axis)
    return [
        body.constant(at("place"), np.array(place, dtype=np.int64)),
        body.constant(at("shape"), np.array(shape, dtype=np.int64)),
        make("Gather", ["all_factors", at("place")], at("factor")),
        make("Mul", [at("factor"), "two"], at("total")),
        helper.make_node("Shape", [f"source_{axis}"], [at("size_list")], start=axis, end=axis + 1),
        make("Squeeze", [at("size_list")], at("size_wide")),
        make("Cast", [at("size_wide")], at("size"), to=TensorProto.INT32),
        make("Sub", [at("size"), "one"], at("last")),
        make("Mul", [at("size"), at("factor")], at("count")),
        make("Range", ["zero", at("count"), "one"], at("places")),
        make("Sub", ["one", at("factor")], at("offset_of_half")),
        make("Mul", [at("offset_of_half"), "half"], at("offset")),
        # Moved up by one whole place, so that the division is of numbers from 0.
        make("Add", [at("offset"), at("total")], at("raised")),
        make("Mul", [at("places"), "two"], at("doubled")),
        make("Add", [at("doubled"), at("raised")], at("t")),
        make("Div", [at("t"), at("total")], at("next")),
        make("Mul", [at("next"), at("total")], at("whole")),
        make("Sub", [at("t"), at("whole")], at("weights")),
        make("Sub", [at("total"), at("weights")], at("others")),
        make("Sub", [at("next"), "one"], at("before_free")),
        make("Max", [at("before_free"), "zero"], at("before")),
        make("Min", [at("next"), at("last")], at("after")),
        make("Gather", [f"source_{axis}", at("before")], at("left"), axis=axis),
        make("Gather", [f"source_{axis}", at("after")], at("right"), axis=axis),
        make("Reshape", [at("others"), at("shape")], at("left_weights")),
        make("Reshape", [at("weights"), at("shape")], at("right_weights")),
        make("Mul", [at("left"), at("left_weights")], at("left_part")),
        make("Mul", [at("right"), at("right_weights")], at("right_part")),
        make("Add", [at("left_part"), at("right_part")], output),
    ]


def linear_taps(size: int, factor: int, half_pixel: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each of size·factor places: the one before it, the one after it, and the weight of the latter, from
    0 to 2·factor − 1; all int64.
    """
    t = 2 * np.arange(size * factor) + half_pixel * (1 - factor)
    before, weight = np.divmod(t, 2 * factor)
    return np.maximum(before, 0), np.minimum(before + 1, size - 1), weight
