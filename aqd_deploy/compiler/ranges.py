"""Closed intervals of the 8-bit tensors of a graph, as the nodes that make them prove them."""

from __future__ import annotations

import numpy as np

from aqd_deploy.integer.graph import Graph, Node

Interval = tuple[int, int]


def activation_ranges(graph: Graph) -> dict[str, Interval]:
    """The interval of every tensor that quantizers clip, by name; tensors without one are left out.

    Wider than `Graph.ranges`: kernels and tuning records go by the codes that a layer can have, so that
    layers of one width share them whatever their weights reach.
    """
    ranges: dict[str, Interval] = {}
    for node in graph.nodes:
        interval = _output_range(node, graph, ranges)
        if interval is not None:
            ranges[node.output] = interval
    return ranges


def _output_range(node: Node, graph: Graph, ranges: dict[str, Interval]) -> Interval | None:
    if node.entry.moves_data:
        known = [ranges.get(name) for name in node.inputs if name not in graph.constants]
        if all(known):
            return min(r[0] for r in known if r), max(r[1] for r in known if r)
    return node.entry.codes(node, graph)


def weight_range(weight: np.ndarray) -> Interval:
    """±(2^k − 1) that holds every weight, so that layers of one width share a kernel; or the whole int8."""
    largest = max(int(weight.max(initial=0)), -int(weight.min(initial=0)))
    if largest > 127:
        return -128, 127
    bound = (1 << largest.bit_length()) - 1
    return -bound, bound


def weight_step(weight: np.ndarray) -> int:
    """2 where every weight is an odd number, as on AQD's grids, so also `weight_range`'s ends; else 1."""
    return 2 if np.all(weight % 2 == 1) else 1
