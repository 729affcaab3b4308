"""Closed intervals of the 8-bit tensors of a graph, as the nodes that make them prove them."""

from __future__ import annotations

import numpy as np

from aqd_deploy.integer.graph import Graph, Node

Interval = tuple[int, int]
# Nodes whose output holds values of their inputs only.
_MOVES = ("MaxPool", "Resize", "Concat")


def activation_ranges(graph: Graph) -> dict[str, Interval]:
    """The interval of every tensor that quantizers clip, by name; tensors without one are left out."""
    ranges: dict[str, Interval] = {}
    for node in graph.nodes:
        interval = _output_range(node, graph, ranges)
        if interval is not None:
            ranges[node.output] = interval
    return ranges


def _output_range(node: Node, graph: Graph, ranges: dict[str, Interval]) -> Interval | None:
    if node.op == "Requantize":
        return int(node.attributes["lo"]), int(node.attributes["hi"])
    if node.op == "Threshold":
        lo = int(node.attributes["lo"])
        return lo, lo + int(graph.constants[node.inputs[2]].shape[0])
    if node.op in _MOVES or node.op.startswith("MaxPool_"):
        known = [ranges.get(name) for name in node.inputs if name not in graph.constants]
        if all(known):
            return min(r[0] for r in known if r), max(r[1] for r in known if r)
    return None


def weight_range(weight: np.ndarray) -> Interval:
    """±(2^k − 1) that holds every weight, so that layers of one width share a kernel; or the whole int8."""
    largest = max(int(weight.max(initial=0)), -int(weight.min(initial=0)))
    if largest > 127:
        return -128, 127
    bound = (1 << largest.bit_length()) - 1
    return -bound, bound
