"""Sums and products, of two tensors or of one and a constant."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.integer.ranges import Interval
from aqd_deploy.passes.constants import finite_reals
from aqd_deploy.passes.contract import COMPLETE
from aqd_deploy.passes.foreign_operations import Multiply
from aqd_deploy.passes.graph import Graph, Node
from aqd_deploy.passes.numerics import EXACT
from aqd_deploy.passes.operations import Add, Div, Mul, Resize, Sub
from aqd_deploy.passes.values import Scaled, Sum, Values


def add(values: Values, node: Node, _: Add) -> None:
    """A constant moves β; two tensors of codes wait for what reads them; other values make a stream."""
    if any(values.graph.is_constant(name) for name in node.inputs):
        name, offsets = _with_constant(values.graph, node)
        _shift(values, node, name, offsets)
        return
    _sum(values, node, *(_operand(values, node, name) for name in node.inputs))


def subtract(values: Values, node: Node, _: Sub) -> None:
    """a − b = a + b·(−1)."""
    if any(values.graph.is_constant(name) for name in node.inputs):
        name, offsets = _with_constant(values.graph, node)
        if name == node.inputs[0]:
            _shift(values, node, name, [-offset for offset in offsets])
        else:
            _scale(values, node, name, [Fraction(-1)] * len(offsets))
            _shift(values, node, node.output, offsets)
        return
    first, second = (_operand(values, node, name) for name in node.inputs)
    _sum(values, node, first, second.scaled([Fraction(-1)] * len(second.forms)))


def multiply(values: Values, node: Node, _: Mul) -> None:
    """A constant scales α and β; of two tensors of codes the product is an int32 stream."""
    if any(values.graph.is_constant(name) for name in node.inputs):
        name, factors = _with_constant(values.graph, node)
        _scale(values, node, name, factors)
        values.result.changed.append(f"{node.label}: factor {float(factors[0]):.6g} into the scale")
        return
    first, second = sorted(node.inputs, key=lambda name: -np.prod(values.graph.shapes[name]))
    shape, small = values.graph.shapes[first], values.graph.shapes[second]
    if shape != values.graph.shapes[node.output] or small not in (shape, (shape[0], shape[1], 1, 1)):
        raise _broadcast(node, shape, small)
    (left, zero_a), (right, zero_b) = (_factor(values, node, name) for name in (first, second))
    interval = _product_range(values, left.tensor, zero_a, right.tensor, zero_b)
    output = values.graph.fresh(f"{node.output}_int")
    values.graph.shapes[output] = shape
    new = Node(Multiply((zero_a, zero_b)), [left.tensor, right.tensor], output, node.source)
    values.emit(new, interval.require_int32(node.label), "int32")
    forms = [
        a.rationalised().without_offset().scaled(b.alpha())
        for a, b in zip(left.forms, right.forms, strict=True)
    ]
    values.scaled[node.output] = Scaled(output, forms, np.zeros(len(forms)))
    values.result.changed.append(f"{node.label}: the product of two tensors of codes, exact")


def divide(values: Values, node: Node, op: Div) -> None:
    """By a constant: times its inverse."""
    if not values.graph.is_constant(node.inputs[1]):
        raise UnsupportedModelError(
            f"node {node.label}: the divisor {node.inputs[1]} is computed",
            valid="division by a constant, or of functions of one tensor of codes",
        )
    name, divisors = _with_constant(values.graph, node)
    if not all(divisors):
        raise UnsupportedModelError(f"node {node.label}: division by 0", valid="divisors other than 0")
    _scale(values, node, name, [1 / divisor for divisor in divisors])


def _scale(values: Values, node: Node, name: str, factors: list[Fraction]) -> None:
    """`name` times a factor a channel; 0 makes a constant, which needs no integers of it."""
    pending = values.sums.get(name)
    if pending is not None:
        values.sums[node.output] = Sum(
            pending.node, (pending.terms[0].scaled(factors), pending.terms[1].scaled(factors))
        )
        return
    values.scaled[node.output] = values.value(name, node).scaled(factors)


def _shift(values: Values, node: Node, name: str, offsets: list[Fraction]) -> None:
    pending = values.sums.get(name)
    if pending is not None:
        values.sums[node.output] = Sum(pending.node, (pending.terms[0].shifted(offsets), pending.terms[1]))
        return
    values.scaled[node.output] = values.value(name, node).shifted(offsets)


def _operand(values: Values, node: Node, name: str) -> Scaled:
    """An operand of a sum, of the shape of the sum: one pixel a channel is repeated."""
    value, shape = values.value(name, node), values.graph.shapes[name]
    wanted = values.graph.shapes[node.output]
    if shape == wanted:
        return value
    if shape != (wanted[0], wanted[1], 1, 1):
        raise _broadcast(node, wanted, shape)
    tensor = values.graph.fresh(f"{node.output}_wide")
    values.graph.shapes[tensor] = wanted
    op = Resize((wanted[2], wanted[3]))
    values.emit(
        Node(op, [value.tensor], tensor, node.source),
        values.graph.ranges[value.tensor],
        values.dtypes[value.tensor],
    )
    return Scaled(tensor, value.forms, value.error)


def _sum(values: Values, node: Node, first: Scaled, second: Scaled) -> None:
    codes = values.holds_codes(first) and values.holds_codes(second)
    if codes and values.numerics == EXACT and not any(f.irrational for f in (*first.forms, *second.forms)):
        values.sums[node.output] = Sum(node, (first, second))
    else:
        values.scaled[node.output] = values.added(node, node.output, first, second)


def _factor(values: Values, node: Node, name: str) -> tuple[Scaled, int]:
    """A factor of a product and its zero point."""
    value = values.value(name, node)
    zero = value.zero_point()
    if zero is None or not values.holds_codes(value):
        raise UnsupportedModelError(
            f"node {node.label}: {name} isn't quantized to 8 bits, so the product has no integer form",
            valid="products of two tensors of codes with one zero point each",
            next_command=COMPLETE,
        )
    return value, zero


def _product_range(values: Values, first: str, zero_a: int, second: str, zero_b: int) -> Interval:
    a, b = values.graph.ranges[first], values.graph.ranges[second]
    ends = [x * y for x in (a.lo - zero_a, a.hi - zero_a) for y in (b.lo - zero_b, b.hi - zero_b)]
    return Interval(np.min(ends, axis=0), np.max(ends, axis=0))


def _with_constant(graph: Graph, node: Node) -> tuple[str, list[Fraction]]:
    """The other operand and the constant per channel."""
    constants = [name for name in node.inputs if graph.is_constant(name)]
    others = [name for name in node.inputs if not graph.is_constant(name)]
    shape = graph.shapes[node.output]
    if len(constants) == 1 and len(others) == 1 and graph.shapes[others[0]] == shape:
        sizes = graph.shapes[constants[0]]
        count = int(np.prod(sizes))
        if count == 1 or (len(sizes) in (3, 4) and sizes[-3:] == (shape[1], 1, 1)):
            values = finite_reals(graph, node, constants[0], "operand", count)
            return others[0], values * (shape[1] // len(values))
    raise UnsupportedModelError(
        f"node {node.label}: {node.op.name} with an odd constant",
        received=" and ".join(str(list(graph.shapes.get(name, ()))) for name in node.inputs),
        valid=f"{node.op.name} with a finite constant, one or one per channel",
    )


def _broadcast(node: Node, first: tuple[int, ...], second: tuple[int, ...]) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"node {node.label}: {node.op.name} broadcasts {list(first)} and {list(second)}",
        valid="operands of one shape, or one of them with one element a channel",
    )
