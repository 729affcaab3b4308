"""Finds the functions of each element that lie between a tensor and a quantizer, and computes them: exactly
for one value, and within bounds for intervals of values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from aqd_deploy.integer.staircase import Quantizer
from aqd_deploy.passes.constants import clip_bounds, finite_reals
from aqd_deploy.passes.enclosures import ENCLOSURES, Enclosure, point
from aqd_deploy.passes.foreign_operations import Lookup
from aqd_deploy.passes.functions import FUNCTIONS
from aqd_deploy.passes.graph import Graph, Node, Operation
from aqd_deploy.passes.operations import (
    Add,
    Clip,
    Div,
    Function,
    Identity,
    Mul,
    PRelu,
    Relu,
    Scale,
    Sub,
)


class NoSliceError(Exception):
    """Why there are no such functions; empty where nothing looked like one."""


@dataclass(frozen=True)
class Slice:
    """The nodes between the tensors `source` and `value`, in order: functions of each element of `source`."""

    source: str
    value: str
    nodes: tuple[Node, ...]

    @property
    def told(self) -> str:
        """The functions by name."""
        names = [node.op.name for node in self.nodes if not isinstance(node.op, (Scale, Identity))]
        return ", ".join(names) or "the same values"

    def needs_a_table(self, graph: Graph) -> bool:
        """Whether no rule makes a stream of it: it has other functions than those of ReLU's kind."""
        return any(
            (isinstance(node.op, Function) and node.op.function != "LeakyRelu")
            or (isinstance(node.op, Div) and not graph.is_constant(node.inputs[1]))
            for node in self.nodes
        )

    def is_affine(self, graph: Graph) -> bool:
        """Whether every node is a sum of or a product with a constant, or a clip."""
        return not any(
            isinstance(node.op, (Function, PRelu, Lookup))
            or (isinstance(node.op, (Mul, Div)) and not any(graph.is_constant(n) for n in node.inputs))
            or (isinstance(node.op, Div) and graph.is_constant(node.inputs[0]))
            for node in self.nodes
        )


@dataclass(frozen=True)
class QuantizedFunction(Operation):
    """The codes of the functions of a slice, stored as `dtype`."""

    found: Slice
    quantizer: Quantizer
    dtype: str


@dataclass(frozen=True)
class RealFunction(Operation):
    """The functions of a slice, whose values go on without a quantizer."""

    found: Slice


class Slices:
    """Finds slices of a graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.producers = graph, graph.producers()
        self.order = {node.output: index for index, node in enumerate(graph.nodes)}

    def of(self, value: str) -> Slice:
        """The longest slice that makes `value` of one tensor; NoSliceError where there is none.

        Nodes are taken from the last one back. Whenever a single tensor is left that is not yet taken, all
        that was taken is a function of it.
        """
        open_names = {value}
        taken: list[Node] = []
        best: tuple[str, int] | None = None
        reason = ""
        while open_names:
            name = max(open_names, key=lambda each: self.order.get(each, -1))
            if len(open_names) == 1 and taken:
                best = name, len(taken)
            node = self.producers.get(name)
            if node is None or type(node.op) not in _EXACT:
                reason = f"{name} isn't made of functions of each element" if taken else ""
                break
            told = not_uniform(self.graph, node)
            if told is not None:
                reason = told
                break
            open_names.remove(name)
            taken.append(node)
            inputs = node.inputs[:1] if isinstance(node.op, Clip) else node.inputs
            open_names.update(each for each in inputs if not self.graph.is_constant(each))
        if best is None:
            raise NoSliceError(reason)
        source, count = best
        return Slice(source, value, tuple(reversed(taken[:count])))


def exactly(graph: Graph, found: Slice) -> Callable[[Fraction], Fraction]:
    """The function of a slice. It raises ArithmeticError where it has no finite value."""
    steps = [(node, _step(graph, node)) for node in found.nodes]

    def apply(x: Fraction) -> Fraction:
        values = {found.source: x}
        for node, step in steps:
            values[node.output] = step(values)
        return values[found.value]

    return apply


def not_uniform(graph: Graph, node: Node) -> str | None:
    """Why a node isn't one function of all elements; None where it is."""
    if isinstance(node.op, Scale) and len(set(node.op.forms)) > 1:
        return f"{node.label} has one scale a channel"
    for name in node.inputs:
        shape = graph.shapes.get(name, ())
        if graph.is_constant(name) and np.prod(shape, dtype=int) > 1:
            return f"{node.label} has a constant a channel"
        if not graph.is_constant(name) and name and shape != graph.shapes[node.output]:
            return f"{node.label} broadcasts"
    return None


_Step = Callable[[Mapping[str, Fraction]], Fraction]


def _step(graph: Graph, node: Node) -> _Step:
    """The value of a node by those of its inputs."""
    constants = {
        name: finite_reals(graph, node, name, "operand", 1)[0]
        for name in node.inputs
        if name and graph.is_constant(name) and not isinstance(node.op, Clip)
    }
    function = _EXACT[type(node.op)](graph, node)
    names = node.inputs[:1] if isinstance(node.op, Clip) else node.inputs

    def step(values: Mapping[str, Fraction]) -> Fraction:
        return function(*(constants[name] if name in constants else values[name] for name in names))

    return step


_Evaluation = Callable[..., Fraction]
_Bounding = Callable[..., Enclosure]


def enclosing(graph: Graph, found: Slice) -> Callable[[Enclosure], Enclosure]:
    """The function of a slice for intervals: the result holds every value of the function there."""
    steps = []
    for node in found.nodes:
        names = node.inputs[:1] if isinstance(node.op, Clip) else node.inputs
        constants = {
            name: point(finite_reals(graph, node, name, "operand", 1)[0])
            for name in names
            if graph.is_constant(name)
        }
        steps.append((node.output, _ENCLOSED[type(node.op)][1](graph, node), names, constants))

    def apply(x: Enclosure) -> Enclosure:
        values = {found.source: x}
        for output, function, names, constants in steps:
            values[output] = function(*(constants[n] if n in constants else values[n] for n in names))
        return values[found.value]

    return apply


def _clip(graph: Graph, node: Node) -> _Evaluation:
    low, high = clip_bounds(graph, node)

    def clip(x: Fraction) -> Fraction:
        x = x if low is None else max(x, low)
        return x if high is None else min(x, high)

    return clip


def _enclosed_clip(graph: Graph, node: Node) -> _Bounding:
    low, high = clip_bounds(graph, node)
    first = -np.inf if low is None else float(low)
    last = np.inf if high is None else float(high)
    return lambda x: x.rising(lambda v: np.clip(v, first, last))


def _function(graph: Graph, node: Node) -> _Evaluation:
    assert isinstance(node.op, Function), "asked by type"
    entry, parameters = FUNCTIONS[node.op.function], node.op.parameters
    return lambda x: entry.apply(x, parameters)


def _enclosed_function(graph: Graph, node: Node) -> _Bounding:
    assert isinstance(node.op, Function), "asked by type"
    bounds, parameters = ENCLOSURES[node.op.function], [float(p) for p in node.op.parameters]
    return lambda x: bounds(x, *parameters)


def _scale(graph: Graph, node: Node) -> _Evaluation:
    assert isinstance(node.op, Scale), "asked by type"
    form = node.op.forms[0].rationalised()
    return lambda x: x * form.a + form.b0


def _enclosed_scale(graph: Graph, node: Node) -> _Bounding:
    assert isinstance(node.op, Scale), "asked by type"
    form = node.op.forms[0].rationalised()
    return lambda x: x * point(form.a) + point(form.b0)


def _lookup_of(graph: Graph, node: Node) -> _Evaluation:
    assert isinstance(node.op, Lookup), "asked by type"
    table = node.op.table
    return lambda x: Fraction(int(table[int(x)]))


def _leaky(x: Enclosure, slope: Enclosure) -> Enclosure:
    return x.rising(lambda v: np.maximum(v, 0)) + slope * x.rising(lambda v: np.minimum(v, 0))


def _always(exact: _Evaluation, bounds: _Bounding) -> _Entry:
    return (lambda graph, node: exact), (lambda graph, node: bounds)


_Entry = tuple[Callable[[Graph, Node], _Evaluation], Callable[[Graph, Node], _Bounding]]

_ENCLOSED: Mapping[type[Operation], _Entry] = {
    Scale: (_scale, _enclosed_scale),
    Identity: _always(lambda x: x, lambda x: x),
    Function: (_function, _enclosed_function),
    PRelu: _always(lambda x, slope: x if x >= 0 else slope * x, _leaky),
    Add: _always(lambda x, y: x + y, lambda x, y: x + y),
    Sub: _always(lambda x, y: x - y, lambda x, y: x - y),
    Mul: _always(lambda x, y: x * y, lambda x, y: x * y),
    Div: _always(lambda x, y: x / y, lambda x, y: x / y),
    Relu: (_clip, _enclosed_clip),
    Clip: (_clip, _enclosed_clip),
}
"""How each operation of a slice is computed, exactly and for intervals."""

_EXACT = {**{kind: exact for kind, (exact, _) in _ENCLOSED.items()}, Lookup: _lookup_of}
"""Exactly also tables. Slices that begin at codes, as those with tables do, are computed code by code."""
