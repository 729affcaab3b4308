"""Operations that select or reorder values: Slice, Gather of channels, DepthToSpace, Rearrange."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from onnx import AttributeProto, NodeProto, helper

from aqd_deploy.errors import ShapeError, UnsupportedModelError
from aqd_deploy.integer import attributes as a
from aqd_deploy.integer.attributes import Attribute
from aqd_deploy.integer.graph import Graph, Node
from aqd_deploy.integer.operations import body
from aqd_deploy.integer.operations.entry import (
    ANY,
    SAME,
    Function,
    Operand,
    Operation,
    source_interval,
    source_type,
)
from aqd_deploy.integer.ranges import Interval

_BOUNDS = ("starts", "ends", "axes", "steps")


class _Selection(Operation):
    """Values of the first input, at other places."""

    accepts = ANY
    returns = SAME
    moves_data = True


class Slice(_Selection):
    """ONNX's own, of channels, rows and columns, by positive steps."""

    name = "Slice"
    operands = tuple(Operand(name, "int64", ("*",)) for name in _BOUNDS)

    def check(self, node: Node, graph: Graph) -> None:
        """Axes 1 to 3, each once, with a start, an end and a step from 1."""
        starts, ends, axes, steps = (graph.operand(node, name) for name in _BOUNDS)
        one_each = len(starts) == len(ends) == len(axes) == len(steps) == len(set(axes.tolist()))
        if not one_each or not np.isin(axes, (1, 2, 3)).all() or (steps < 1).any():
            raise UnsupportedModelError(
                f"{node.label} does not cut channels, rows and columns",
                received=f"starts {starts.tolist()}, ends {ends.tolist()}, axes {axes.tolist()}, "
                f"steps {steps.tolist()}",
                valid="axes 1, 2 and 3, each once, and steps from 1",
            )

    def shape(self, node: Node, graph: Graph) -> tuple[int, int, int]:
        channels, rows, columns = (len(r) for r in slice_ranges(node, graph))
        if not channels * rows * columns:
            raise ShapeError(f"{node.label} leaves nothing", received=[1, channels, rows, columns])
        return rows, columns, channels

    def interval(self, node: Node, graph: Graph) -> Interval:
        source, (channels, _, _) = source_interval(node, graph), slice_ranges(node, graph)
        return Interval(source.lo[channels], source.hi[channels])

    def meaning(self, node: Node, graph: Graph, values: Sequence[np.ndarray]) -> np.ndarray:
        return values[0][np.ix_([0], *slice_ranges(node, graph))]


def _check_indices(node: Node, graph: Graph, of: str, count: int) -> None:
    """The operand `indices` are from 0 and below `count`."""
    indices = graph.operand(node, "indices")
    if indices.min() < 0 or indices.max() >= count:
        raise ShapeError(
            f"{node.label} selects {of} that are not there",
            received=f"{indices.min()} to {indices.max()}",
            valid=f"0 to {count - 1}",
        )


class Gather(_Selection):
    """ONNX's own, of channels, by a constant list: each index from 0."""

    name = "Gather"
    operands = (Operand("indices", "int64", ("*",)),)
    attributes: ClassVar = {"axis": a.CHANNEL_AXIS}

    def check(self, node: Node, graph: Graph) -> None:
        _check_indices(node, graph, "channels", source_type(node, graph).channels)

    def shape(self, node: Node, graph: Graph) -> tuple[int, int, int]:
        x = source_type(node, graph)
        return x.height, x.width, len(graph.operand(node, "indices"))

    def interval(self, node: Node, graph: Graph) -> Interval:
        source, indices = source_interval(node, graph), graph.operand(node, "indices")
        return Interval(source.lo[indices], source.hi[indices])

    def meaning(self, node: Node, graph: Graph, values: Sequence[np.ndarray]) -> np.ndarray:
        x, indices = values
        return x[:, indices]


class DepthToSpace(_Selection, Function):
    """Squares of r·r channels become squares of pixels, as in ONNX's DepthToSpace, which onnxruntime has for
    some types only. `mode` CRD: the r·r channels of a result's channel are neighbours; DCR: its channels are.
    """

    attributes: ClassVar = {"blocksize": Attribute(AttributeProto.INT, required=True, low=1, high=1 << 8)}

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.name = f"DepthToSpace_{mode}"

    def shape(self, node: Node, graph: Graph) -> tuple[int, int, int]:
        x, r = source_type(node, graph), node.attributes["blocksize"]
        if x.channels % (r * r):
            raise ShapeError(
                f"the channels of {node.label} are no squares",
                received=x.channels,
                valid=f"a multiple of {r * r}",
            )
        return x.height * r, x.width * r, x.channels // (r * r)

    def interval(self, node: Node, graph: Graph) -> Interval:
        source, channels = source_interval(node, graph), depth_sources(node, graph)
        return Interval(source.lo[channels].min(axis=0), source.hi[channels].max(axis=0))

    def meaning(self, node: Node, graph: Graph, values: Sequence[np.ndarray]) -> np.ndarray:
        (x,), r = values, node.attributes["blocksize"]
        squares = x[0, depth_sources(node, graph)].reshape(r, r, -1, *x.shape[2:])
        return squares.transpose(2, 3, 0, 4, 1).reshape(1, -1, x.shape[2] * r, x.shape[3] * r)

    def body(self, op_type: str) -> list[NodeProto]:
        crd = self.mode == "CRD"
        parts = ["one", "rest", "r", "r", "size"] if crd else ["one", "r", "r", "rest", "size"]
        return [
            body.constant_from("factor", "blocksize", AttributeProto.INT),
            body.constant("one", np.array([1], dtype=np.int64)),
            body.constant("rest", np.array([-1], dtype=np.int64)),
            helper.make_node("Reshape", ["factor", "one"], ["r"]),
            helper.make_node("Shape", ["x"], ["size"], start=2),
            helper.make_node("Concat", parts, ["apart"], axis=0),
            helper.make_node("Reshape", ["x", "apart"], ["squares"]),
            helper.make_node(
                "Transpose", ["squares"], ["ordered"], perm=[0, 1, 4, 2, 5, 3] if crd else [0, 3, 4, 1, 5, 2]
            ),
            helper.make_node("Mul", ["size", "r"], ["larger"]),
            helper.make_node("Concat", ["one", "rest", "larger"], ["joined"], axis=0),
            helper.make_node("Reshape", ["ordered", "joined"], ["y"]),
        ]


class Rearrange(_Selection, Function):
    """Values in any order and shape: y[0, c, i, j] is the element `indices`[c, i, j] of x, counted as it lies
    in memory, [C, H, W]. Each may be there several times, or not at all.
    """

    name = "Rearrange"
    operands = (Operand("indices", "int32", ("*", "*", "*")),)

    def check(self, node: Node, graph: Graph) -> None:
        _check_indices(node, graph, "elements", math.prod(source_type(node, graph).shape))

    def shape(self, node: Node, graph: Graph) -> tuple[int, int, int]:
        channels, height, width = graph.operand(node, "indices").shape
        return height, width, channels

    def interval(self, node: Node, graph: Graph) -> Interval:
        """Of the channels that each channel takes elements of."""
        x, source = source_type(node, graph), source_interval(node, graph)
        channels = graph.operand(node, "indices") // (x.height * x.width)
        return Interval(source.lo[channels].min(axis=(1, 2)), source.hi[channels].max(axis=(1, 2)))

    def meaning(self, node: Node, graph: Graph, values: Sequence[np.ndarray]) -> np.ndarray:
        x, indices = values
        return x.reshape(-1)[indices][None]

    def body(self, op_type: str) -> list[NodeProto]:
        return [
            body.constant("all", np.array([-1], dtype=np.int64)),
            body.constant("batch", np.array([0], dtype=np.int64)),
            helper.make_node("Reshape", ["x", "all"], ["flat"]),
            helper.make_node("Gather", ["flat", "indices"], ["map"], axis=0),
            helper.make_node("Unsqueeze", ["map", "batch"], ["y"]),
        ]


def depth_sources(node: Node, graph: Graph) -> np.ndarray:
    """int64 [r·r, C/(r·r)] of a DepthToSpace: the input channel of each of the result's at each place of a
    square.
    """
    index, places = np.arange(source_type(node, graph).channels), node.attributes["blocksize"] ** 2
    neighbours = isinstance(node.entry, DepthToSpace) and node.entry.mode == "CRD"
    return index.reshape(-1, places).T if neighbours else index.reshape(places, -1)


def slice_ranges(node: Node, graph: Graph) -> tuple[range, range, range]:
    """The channels, rows and columns that a Slice takes; ONNX counts as numpy does."""
    x = source_type(node, graph)
    ranges = [range(size) for size in x.nchw]
    operands = (graph.operand(node, name).tolist() for name in _BOUNDS)
    for start, end, axis, step in zip(*operands, strict=True):
        ranges[axis] = ranges[axis][start:end:step]
    return ranges[1], ranges[2], ranges[3]
