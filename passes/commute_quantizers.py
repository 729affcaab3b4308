"""Moves quantizers up, past everything that commutes with a monotone staircase."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from fractions import Fraction

from aqd_deploy.passes.codes import STRUCTURAL, codes_of
from aqd_deploy.passes.constants import clip_bounds
from aqd_deploy.passes.contract import Lowering, Pass, PassError, PassResult, none_left
from aqd_deploy.passes.graph import Graph, Node, Operation, topological
from aqd_deploy.passes.operations import (
    Clip,
    Concat,
    DequantizeLinear,
    FileOperation,
    MaxPool,
    Pad,
    Quantize,
    QuantizeLinear,
    Relu,
    Resize,
)
from aqd_deploy.passes.rules import RULES
from aqd_deploy.passes.slices import NoSliceError, Slices

COMMUTING = tuple(kind for kind, rule in RULES.items() if rule.commutes)
"""What a non-decreasing function of each element alone can be exchanged with."""


class CommuteQuantizers(Pass):
    """A quantizer Q is non-decreasing and acts on each element alone, so it goes in front of what it reads.

        x ── Relu ── MaxPool ── Quantize ── q        x ── Quantize (lo ≥ Q(0)) ── MaxPool ── q

    1. Q(Relu(x)) = clip(Q(x), Q(0), ·): ReLU becomes the lower end of the clip. Likewise Clip (ReLU6): both
       ends.
    2. Q(MaxPool(x)) = MaxPool(Q(x)): pooling runs on 8 bits.
    3. Q(Resize(x)) = Resize(Q(x)) for nearest neighbour, and likewise for all that places elements; what a
       Pad fills with becomes its code.
    4. Q(Concat(x, y)) = Concat(Q(x), Q(y)); of a quantizer with a step a channel each part has its own.
    5. Two quantizers of one tensor with the same step and range are one, and so is all that does the same
       behind them, as pools do that stood in front of them.
    6. Behind a function that is no sum and no product with a constant (SiLU in front of a Split) a quantizer
       moves also where others read the tensor as it is: right behind the function its codes are exact.

    Any other tensor that also goes on as an integer stream (skip-add, head) is left alone: its stream is
    computed anyway, and requantizing that costs less than a second way from the accumulators.
    """

    name = "commute_quantizers"

    def requires(self, state: Lowering) -> None:
        """Folded quantizers."""
        none_left(state.graph, FileOperation, QuantizeLinear, DequantizeLinear)

    def ensures(self, state: Lowering) -> None:
        """No quantizer that could stand in front of what it reads, and none of case 5."""
        found = _candidate(state.graph)
        if found is not None:
            raise PassError(
                f"quantizers read {found[0].label} ({found[0].op.name}), and could stand in front"
            )
        seen = set()
        for node in state.graph.nodes:
            if _may_merge(state.graph, node):
                if (key := _key(node)) in seen:
                    raise PassError(f"{node.label} treats {node.inputs[0]} as another node does")
                seen.add(key)

    def run(self, state: Lowering) -> PassResult:
        """Repeats the cases until none applies."""
        graph, result = state.graph, PassResult(self.name)
        while (found := _candidate(graph)) is not None:
            _exchange(graph, *found, result)
        _merge(graph, result)
        result.left_alone += _reasons(graph)
        return result


def _candidate(graph: Graph) -> tuple[Node, list[Node]] | None:
    """The first operation that quantizers can stand in front of, and these: nothing else reads it, or case 6
    holds.
    """
    consumers, codes = graph.consumers(), codes_of(graph)
    slices = Slices(graph)
    for node in graph.nodes:
        if not isinstance(node.op, COMMUTING) or node.output in codes:
            continue
        readers = consumers.get(node.output, [])
        moving = [reader for reader in readers if _exchangeable(graph, node, reader)]
        alone = len(moving) == len(readers) and node.output not in graph.outputs
        if moving and (alone or _places_a_function(graph, slices, node)):
            return node, moving
    return None


def _places_a_function(graph: Graph, slices: Slices, node: Node) -> bool:
    """Whether the node selects or places values of a function."""
    while isinstance(node.op, STRUCTURAL) and not isinstance(node.op, Concat):
        source = slices.producers.get(node.inputs[0])
        if source is None:
            return False
        node = source
    try:
        return slices.of(node.output).needs_a_table(graph)
    except NoSliceError:
        return False


def _exchangeable(graph: Graph, node: Node, reader: Node) -> bool:
    """Whether `reader` is a quantizer that can stand in front of `node`. One with a step a channel keeps its
    channels, and a bound has one code.
    """
    if not isinstance(reader.op, Quantize):
        return False
    if isinstance(node.op, (Relu, Clip)):
        return all(
            len({reader.op.code(bound, variant) for variant in reader.op.variants()}) == 1
            for bound in clip_bounds(graph, node)
            if bound is not None
        )
    return not reader.op.channels or isinstance(node.op, (MaxPool, Resize, Concat, Pad))


def _exchange(graph: Graph, node: Node, readers: list[Node], result: PassResult) -> None:
    """Cases 1 to 4."""
    if isinstance(node.op, (Relu, Clip)):
        for reader in readers:
            _absorb(graph, node, reader)
    else:
        _move_behind(graph, node, readers)
    names = ", ".join(reader.label for reader in readers)
    result.changed.append(f"{node.label} ({node.op.name}) behind quantizer {names}")
    graph.remove_dead()


def _absorb(graph: Graph, node: Node, reader: Node) -> None:
    """Case 1."""
    assert isinstance(reader.op, Quantize), "only quantizers read it"
    quantizer = reader.op.quantizer
    low, high = clip_bounds(graph, node)
    variant = reader.op.variants()[0]
    lo = quantizer.lo if low is None else reader.op.code(low, variant)
    hi = quantizer.hi if high is None else reader.op.code(high, variant)
    reader.op = replace(reader.op, quantizer=replace(quantizer, lo=lo, hi=hi))
    reader.inputs = [node.inputs[0]]


def _move_behind(graph: Graph, node: Node, readers: list[Node]) -> None:
    """Cases 2 to 4: one quantizer per input, then the operation on integers, under its name."""
    nodes = [n for n in graph.nodes if n not in readers]
    for reader in readers:
        inputs, first = [], 0
        for i, source in enumerate(node.inputs):
            assert isinstance(reader.op, Quantize), "only quantizers read it"
            last = first + graph.shapes[source][1]
            op = replace(reader.op, channels=reader.op.channels[first:last])
            first = last if isinstance(node.op, Concat) else first
            name = graph.fresh(f"{reader.output}_in{i}")
            graph.shapes[name] = graph.shapes[source]
            nodes.append(Node(op, [source], name, reader.source))
            inputs.append(name)
        nodes.append(Node(_on_codes(node.op, reader.op), inputs, reader.output, node.source))
    graph.nodes = topological(nodes, set(graph.inputs) | set(graph.constants))


def _on_codes(op: Operation, quantizer: Operation) -> Operation:
    """The same operation behind the quantizer: what a Pad fills with becomes its code."""
    if not isinstance(op, Pad) or not isinstance(quantizer, Quantize):
        return op
    variants = quantizer.variants()
    count = max(len(op.values), len(variants))
    pairs = zip(op.values * (count // len(op.values)), variants * (count // len(variants)), strict=True)
    return replace(op, values=tuple(Fraction(quantizer.code(value, variant)) for value, variant in pairs))


def _key(node: Node) -> Hashable:
    """Equal for nodes that compute the same."""
    return node.op, tuple(node.inputs)


def _may_merge(graph: Graph, node: Node) -> bool:
    """Quantizers, and what is there once a quantizer after moving. Outputs keep their names."""
    return isinstance(node.op, (Quantize, *COMMUTING)) and node.output not in graph.outputs


def _merge(graph: Graph, result: PassResult) -> None:
    """Case 5, from the inputs on: merging makes what stands behind equal as well."""
    first: dict[Hashable, str] = {}
    renamed: dict[str, str] = {}
    kept = []
    for node in graph.nodes:
        node.inputs = [renamed.get(name, name) for name in node.inputs]
        if _may_merge(graph, node):
            known = first.setdefault(_key(node), node.output)
            if known != node.output:
                renamed[node.output] = known
                told = "quantizer" if isinstance(node.op, Quantize) else node.op.name
                result.changed.append(f"{node.label}: same {told} as {known}")
                continue
        kept.append(node)
    graph.nodes = kept


def _reasons(graph: Graph) -> list[str]:
    """Why operations stay in front of quantizers, and why quantizers of one tensor stay two."""
    reasons, consumers, codes = [], graph.consumers(), codes_of(graph)
    for node in graph.nodes:
        readers = consumers.get(node.output, [])
        quantizers = [reader for reader in readers if isinstance(reader.op, Quantize)]
        first = quantizers[0].label if quantizers else ""
        reasons += [f"{other.label}: another step or range than {first}" for other in quantizers[1:]]
        if not isinstance(node.op, COMMUTING) or node.output in codes:
            continue
        others = [reader.label for reader in readers if reader not in quantizers]
        told = f"{', '.join(others) or 'the graph output'} reads it as an integer stream"
        if not quantizers:
            told = "no quantizer reads it"
        reasons.append(f"{node.label} ({node.op.name}): {told}")
    return reasons
