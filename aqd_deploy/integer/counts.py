"""What the arithmetic of an integer file is, node by node, from its graph alone."""

from __future__ import annotations

from dataclasses import dataclass

from aqd_deploy.integer.arithmetic import STREAM_BITS, Arithmetic, interval_bits, weight_bits
from aqd_deploy.integer.graph import Graph, Node
from aqd_deploy.integer.operations.convolution import Convolution
from aqd_deploy.integer.ranges import Interval


@dataclass(frozen=True)
class NodeCounts:
    """One node: its tensor, its type, its arithmetic for one image. Of a convolution also the name and the
    number of its weights, their bits, and the bits of the codes that it reads; 0 of others.
    """

    name: str
    operation: str
    arithmetic: Arithmetic
    weight: str = ""
    weights: int = 0
    weight_bits: int = 0
    activation_bits: int = 0


def node_counts(graph: Graph) -> list[NodeCounts]:
    """An entry for each node, in order."""
    return [_counted(node, graph) for node in graph.nodes]


def _counted(node: Node, graph: Graph) -> NodeCounts:
    arithmetic = node.entry.arithmetic(node, graph)
    if not isinstance(node.entry, Convolution):
        return NodeCounts(node.output, node.op, arithmetic)
    weights = graph.operand(node, "w")
    return NodeCounts(
        node.output,
        node.op,
        arithmetic,
        node.slots[node.entry.slots["w"]],
        int(weights.size),
        weight_bits(weights, node.entry.takes_bytes),
        interval_bits(_codes(node.slots[0], graph)),
    )


def _codes(name: str, graph: Graph) -> Interval:
    """The codes that a tensor can have by its quantizers, which may be more than are proven to occur."""
    name = graph.tensor(name)
    node = graph.producers.get(name)
    if node is None:
        return graph.ranges[name]
    limits = node.entry.codes(node, graph)
    if limits is not None:
        return Interval.uniform(1, *limits)
    if not node.entry.moves_data:
        return graph.ranges[name]
    sources = [_codes(source, graph).bounds for source in node.inputs if source not in graph.constants]
    return Interval.uniform(1, min(low for low, _ in sources), max(high for _, high in sources))


def by_bits(counts: list[NodeCounts]) -> dict[str, dict[str, int]]:
    """Totals: `macs` by "weight bits x activation bits", `products`, `sums` (accumulations are part of the
    macs) and `weights` by their bits; weights that several convolutions share count once.
    """
    macs: dict[str, int] = {}
    weights: dict[str, int] = {}
    seen: set[str] = set()
    for each in counts:
        if not each.arithmetic.macs:
            continue
        key = f"{each.weight_bits}x{each.activation_bits}"
        macs[key] = macs.get(key, 0) + each.arithmetic.macs
        if each.weight not in seen:
            seen.add(each.weight)
            bits = str(each.weight_bits)
            weights[bits] = weights.get(bits, 0) + each.weights
    width = str(STREAM_BITS)
    return {
        "macs": macs,
        "products": {width: sum(each.arithmetic.products for each in counts)},
        "sums": {width: sum(each.arithmetic.sums for each in counts)},
        "weights": weights,
    }
