"""Functions in straight pieces: Pieces, a multiply-shift for each range of values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import NodeProto, TensorProto, helper

from aqd_deploy.errors import RangeError, ShapeError, UnsupportedModelError
from aqd_deploy.integer.arithmetic import Arithmetic
from aqd_deploy.integer.domain import C_BITS, MAX_SHIFT, PRODUCT_LIMIT
from aqd_deploy.integer.graph import Graph, Node
from aqd_deploy.integer.operations.entry import Function, Operand, elements, source_interval
from aqd_deploy.integer.operations.scaling import scale_body, scaled
from aqd_deploy.integer.operations.tables import MAX_STEPS, search_body
from aqd_deploy.integer.ranges import Interval

_NAMES = ("c", "B", "d")


class Pieces(Function):
    """(x·c_k + B_k) >> d_k with k = #{T_k ≤ x}: one function for all channels, as a stream."""

    name = "Pieces"
    operands = (
        Operand("T", "int32", ("*",)),
        Operand("c", "int64", ("*",)),
        Operand("B", "int64", ("*",)),
        Operand("d", "uint64", ("*",)),
    )

    def check(self, node: Node, graph: Graph) -> None:
        """One piece more than thresholds, which ascend and differ; c and d as those of a MultiplyShift."""
        thresholds = graph.operand(node, "T").astype(np.int64)
        c, b, d = (graph.operand(node, name) for name in _NAMES)
        if {len(c), len(b), len(d)} != {len(thresholds) + 1} or len(thresholds) > MAX_STEPS:
            raise ShapeError(
                f"{node.label} has another number of pieces or thresholds",
                received=f"{len(c)} c, {len(b)} B, {len(d)} d, {len(thresholds)} thresholds",
                valid=f"one piece more than thresholds, of which there are up to {MAX_STEPS}",
            )
        if (np.diff(thresholds) <= 0).any():
            raise UnsupportedModelError(f"the thresholds of {node.label} do not ascend")
        limit = (1 << C_BITS) - 1
        if c.min() < -limit or c.max() > limit or d.max() > MAX_SHIFT:
            raise RangeError(
                f"a multiplier or shift of {node.label} is out of range",
                received=f"c in [{c.min()}, {c.max()}], d up to {d.max()}",
                valid=f"c within ±{limit}, d from 0 to {MAX_SHIFT}",
            )

    def arithmetic(self, node: Node, graph: Graph) -> Arithmetic:
        """The comparisons of a binary search, and a multiply-shift."""
        count, search = elements(node, graph), len(graph.operand(node, "T")).bit_length()
        return Arithmetic(products=count, sums=(search + 1) * count)

    def interval(self, node: Node, graph: Graph) -> Interval:
        """RangeError also where a sum leaves 62 bits within its piece."""
        thresholds, c, b, d = (graph.operand(node, name) for name in ("T", *_NAMES))
        found = pieces_image(thresholds, c, b, d.astype(np.int64), source_interval(node, graph))
        if found is None:
            raise RangeError(
                f"x·c + B of {node.label} leaves 62 bits in one of its pieces",
                valid="|x·c + B| < 2^62",
                next_command="aqd-deploy lower QDQ.onnx -o M.int.onnx, which writes constants that fit",
            )
        return found.require_int32(node.name)

    def meaning(self, node: Node, graph: Graph, values: Sequence[np.ndarray]) -> np.ndarray:
        x, thresholds, c, b, d = values
        piece = np.searchsorted(thresholds, x, side="right")
        return scaled(x, c[piece], b[piece], d[piece])

    def body(self, op_type: str) -> list[NodeProto]:
        """The search of Steps, and the multiply-shift of the piece that it finds."""
        return [
            *search_body("piece"),
            *(helper.make_node("Gather", [name, "piece"], [f"{name}_k"]) for name in _NAMES),
            *scale_body("x", "found", "_k"),
            helper.make_node("Cast", ["found"], ["y"], to=TensorProto.INT32),
        ]


def pieces_image(
    thresholds: np.ndarray, c: np.ndarray, b: np.ndarray, d: np.ndarray, source: Interval
) -> Interval | None:
    """The interval of (x·c_k + B_k) >> d_k for x within `source`, by channel; None where a sum leaves 62
    bits. `thresholds` [K] ascend; c, b and d [K + 1], d int64.
    """
    first, last = -(1 << 31), (1 << 31) - 1
    starts = np.concatenate([[first], thresholds.astype(np.int64)])
    ends = np.concatenate([thresholds.astype(np.int64) - 1, [last]])
    bounds, channel = np.unique(np.stack([source.lo, source.hi]), axis=1, return_inverse=True)
    images = np.zeros(bounds.shape, np.int64)
    factors, offsets = c.astype(np.int64), b.astype(np.int64)
    for i, (low, high) in enumerate(bounds.T.tolist()):
        begin, end = np.maximum(starts, low), np.minimum(ends, high)
        inside = begin <= end
        products = np.stack([begin[inside] * factors[inside], end[inside] * factors[inside]])
        given = offsets[inside]
        # |x·c| < 2^62, so neither difference leaves int64, which the sum with an arbitrary B could.
        if (given <= -PRODUCT_LIMIT - products.min(axis=0)).any():
            return None
        if (given >= PRODUCT_LIMIT - products.max(axis=0)).any():
            return None
        found = (products + given) >> d[inside]
        images[:, i] = found.min(), found.max()
    images = images[:, channel.reshape(-1)]
    return Interval(images[0].copy(), images[1].copy())
