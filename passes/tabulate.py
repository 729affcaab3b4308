"""Turns functions of codes, from a DequantizeLinear to a quantizer, into tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from aqd_deploy.passes.codes import codes_of, reach
from aqd_deploy.passes.constants import clip_bounds, finite_reals
from aqd_deploy.passes.contract import Lowering, Pass, PassError, PassResult, none_left
from aqd_deploy.passes.foreign_operations import Lookup
from aqd_deploy.passes.functions import FUNCTIONS
from aqd_deploy.passes.graph import Graph, Node, Operation
from aqd_deploy.passes.operations import (
    Add,
    Clip,
    DequantizeLinear,
    Div,
    FileOperation,
    Function,
    Identity,
    Mul,
    PRelu,
    Quantize,
    QuantizeLinear,
    Relu,
    Scale,
    Sub,
)
from aqd_deploy.passes.values import CODE_BOUNDS


class Tabulate(Pass):
    """A quantizer whose value is a function f of the codes of one 8-bit tensor has 256 values: a table.

        codes ── Scale ─┬─ Sigmoid ── Mul ── Quantize ── q        codes ── Lookup(table) ── q
                        └──────────────┘

    f is made of functions of each element (`functions.py`), sums, products and quotients, of the same tensor
    or with one constant for all elements, and clips. table[x] = clip(round_half_even(f(x) / step) + zero
    point, lo, hi), in exact numbers (docs/proofs.md).

    1. The functions between the Scale and the quantizer become a `Lookup`, also where there is none: the
       codes of one step from those of another.
    2. A table behind a table of the same codes is one table: SiLU as Sigmoid → Q → DQ → Mul → Q.
    3. A table that changes nothing is left out.

    A function without a finite value at a code that can occur (√ of a negative number) is left alone, as is
    one with a constant a channel.
    """

    name = "tabulate"

    def requires(self, state: Lowering) -> None:
        """Folded quantizers."""
        none_left(state.graph, FileOperation, QuantizeLinear, DequantizeLinear)

    def ensures(self, state: Lowering) -> None:
        """No quantizer of dequantized codes."""
        producers = state.graph.producers()
        for node in state.graph.nodes:
            source = producers.get(node.inputs[0])
            if not isinstance(node.op, Quantize) or source is None or not isinstance(source.op, Scale):
                continue
            if _not_uniform(state.graph, source) is None:
                raise PassError(f"{node.label} is a function of {source.inputs[0]}")

    def run(self, state: Lowering) -> PassResult:
        """Every quantizer in order, so that the tables in front are known."""
        graph, result = state.graph, PassResult(self.name)
        slices, codes = _Slices(graph), codes_of(graph)
        renamed: dict[str, str] = {}
        kept = []
        for node in graph.nodes:
            node.inputs = [renamed.get(name, name) for name in node.inputs]
            if isinstance(node.op, Quantize):
                try:
                    found = slices.of(node)
                    low, high = reach(graph, found.source)
                    table = _values(graph, found, node.op, low, high)
                except _LeftAloneError as reason:
                    result.left_alone.append(f"{node.label}: {reason}")
                else:
                    same = table == list(range(low, high + 1)) and codes[found.source] == node.op.dtype
                    if same and node.output not in graph.outputs:
                        renamed[node.output] = found.source
                        result.changed.append(f"{node.label}: the codes of {found.source} as they are")
                        continue
                    node.op = _lookup(table, low, codes[found.source], node.op.dtype)
                    node.inputs = [found.source]
                    result.changed.append(f"{node.label}: a table of {found.told} of {found.source}")
            kept.append(node)
        graph.nodes = kept
        graph.remove_dead()
        return result


class _LeftAloneError(Exception):
    """Why a quantizer isn't a table."""


@dataclass(frozen=True)
class _Slice:
    """The nodes between the codes `source` and a quantizer, in order: they make `value`."""

    source: str
    value: str
    nodes: list[Node]

    @property
    def told(self) -> str:
        """The functions by name."""
        names = [node.op.name for node in self.nodes if not isinstance(node.op, (Scale, Identity))]
        return ", ".join(names) or "the same values"


class _Slices:
    """Finds what lies between codes and quantizers of a graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.producers, self.consumers = graph, graph.producers(), graph.consumers()
        self.order = {node.output: index for index, node in enumerate(graph.nodes)}

    def of(self, quantizer: Node) -> _Slice:
        """The slice behind the value that `quantizer` reads; _LeftAloneError where there is none."""
        value = quantizer.inputs[0]
        nodes: dict[str, Node] = {}
        sources: set[str] = set()
        waiting = [value]
        while waiting:
            name = waiting.pop()
            if name in nodes or self.graph.is_constant(name):
                continue
            node = self.producers.get(name)
            if node is None or type(node.op) not in _EVALUATED or isinstance(node.op, Lookup):
                raise _LeftAloneError(f"{name} isn't made of functions of codes alone")
            if (reason := _not_uniform(self.graph, node)) is not None:
                raise _LeftAloneError(reason)
            nodes[name] = node
            if isinstance(node.op, Scale):
                sources.add(node.inputs[0])
            else:
                waiting += node.inputs[:1] if isinstance(node.op, Clip) else node.inputs
        source = self._single(sources, nodes)
        return _Slice(source, value, sorted(nodes.values(), key=lambda node: self.order[node.output]))

    def _single(self, sources: set[str], nodes: dict[str, Node]) -> str:
        """Case 2: the one tensor of codes that all `sources` are tables of. Tables that nothing else reads
        join the nodes as well.
        """
        while True:
            last = max(sources, key=lambda name: self.order.get(name, -1))
            table = self.producers.get(last)
            is_table = table is not None and isinstance(table.op, Lookup)
            if len(sources) == 1 and not (is_table and self._alone(last, nodes)):
                return last
            if table is None or not is_table:
                raise _LeftAloneError(f"it is made of several tensors of codes: {', '.join(sorted(sources))}")
            nodes[last] = table
            sources.remove(last)
            sources.add(table.inputs[0])

    def _alone(self, name: str, nodes: dict[str, Node]) -> bool:
        readers = self.consumers[name]
        return name not in self.graph.outputs and all(nodes.get(r.output) is r for r in readers)


def _not_uniform(graph: Graph, node: Node) -> str | None:
    """Why a node isn't one function of all elements."""
    if isinstance(node.op, Scale) and len(set(node.op.forms)) > 1:
        return f"{node.label} has one scale a channel"
    for name in node.inputs:
        shape = graph.shapes.get(name, ())
        if graph.is_constant(name) and np.prod(shape, dtype=int) > 1:
            return f"{node.label} has a constant a channel"
        if not graph.is_constant(name) and name and shape != graph.shapes[node.output]:
            return f"{node.label} broadcasts"
    return None


def _lookup(table: list[int], low: int, source: str, dtype: str) -> Lookup:
    """The table of the codes from `low` on; codes that can't occur have the nearest one's entry."""
    first, last = CODE_BOUNDS[source]
    before, behind = low - first, last - low - len(table) + 1
    return Lookup.by_code([table[0]] * before + table + [table[-1]] * behind, source, dtype)


def _values(graph: Graph, found: _Slice, op: Quantize, low: int, high: int) -> list[int]:
    """The codes that the quantizer makes of the codes from `low` to `high`."""
    steps = [(node, _step(graph, node)) for node in found.nodes]
    table = []
    for code in range(low, high + 1):
        values = {found.source: Fraction(code)}
        try:
            for node, step in steps:
                values[node.output] = step(values)
        except ArithmeticError as error:
            raise _LeftAloneError(f"{node.label} of the code {code} has no finite value ({error})") from error
        table.append(op.quantizer.code(values[found.value]))
    return table


_Step = Callable[[Mapping[str, Fraction]], Fraction]


def _step(graph: Graph, node: Node) -> _Step:
    """The value of a node by those of its inputs."""
    constants = {
        name: finite_reals(graph, node, name, "operand", 1)[0]
        for name in node.inputs
        if name and graph.is_constant(name) and not isinstance(node.op, Clip)
    }
    function = _EVALUATED[type(node.op)](graph, node)
    names = node.inputs[:1] if isinstance(node.op, Clip) else node.inputs

    def step(values: Mapping[str, Fraction]) -> Fraction:
        return function(*(constants[name] if name in constants else values[name] for name in names))

    return step


_Evaluation = Callable[..., Fraction]


def _clip(graph: Graph, node: Node) -> _Evaluation:
    low, high = clip_bounds(graph, node)

    def clip(x: Fraction) -> Fraction:
        x = x if low is None else max(x, low)
        return x if high is None else min(x, high)

    return clip


def _function(graph: Graph, node: Node) -> _Evaluation:
    assert isinstance(node.op, Function), "asked by type"
    entry, parameters = FUNCTIONS[node.op.function], node.op.parameters
    return lambda x: entry.apply(x, parameters)


def _scale(graph: Graph, node: Node) -> _Evaluation:
    assert isinstance(node.op, Scale), "asked by type"
    form = node.op.forms[0]
    return lambda x: x * form.a + form.b0


def _lookup_of(graph: Graph, node: Node) -> _Evaluation:
    assert isinstance(node.op, Lookup), "asked by type"
    table = node.op.table
    return lambda x: Fraction(int(table[int(x)]))


def _always(function: _Evaluation) -> Callable[[Graph, Node], _Evaluation]:
    return lambda graph, node: function


_EVALUATED: Mapping[type[Operation], Callable[[Graph, Node], _Evaluation]] = {
    Scale: _scale,
    Identity: _always(lambda x: x),
    Lookup: _lookup_of,
    Function: _function,
    PRelu: _always(lambda x, slope: x if x >= 0 else slope * x),
    Add: _always(lambda x, y: x + y),
    Sub: _always(lambda x, y: x - y),
    Mul: _always(lambda x, y: x * y),
    Div: _always(lambda x, y: x / y),
    Relu: _clip,
    Clip: _clip,
}
"""How each operation of a slice is computed."""
