"""Sums and products, of two tensors or of one and a constant."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.integer.ranges import Interval
from aqd_deploy.integer.rational import ChannelForm
from aqd_deploy.passes.constants import finite_reals
from aqd_deploy.passes.foreign_operations import Multiply, StreamMultiply
from aqd_deploy.passes.graph import Graph, Node
from aqd_deploy.passes.numerics import EXACT
from aqd_deploy.passes.operations import Add, Div, Mul, Resize, Sub
from aqd_deploy.passes.streams import FINE_TARGET
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
    """A constant scales α and β; of two tensors of codes the product is exact, of streams it is rounded."""
    if any(values.graph.is_constant(name) for name in node.inputs):
        name, factors = _with_constant(values.graph, node)
        _scale(values, node, name, factors)
        values.result.changed.append(f"{node.label}: factor {float(factors[0]):.6g} into the scale")
        return
    first, second = sorted(node.inputs, key=lambda name: -np.prod(values.graph.shapes[name]))
    shape, small = values.graph.shapes[first], values.graph.shapes[second]
    if shape != values.graph.shapes[node.output] or small not in (shape, (shape[0], shape[1], 1, 1)):
        raise _broadcast(node, shape, small)
    sides = [values.value(name, node) for name in (first, second)]
    zeros = [side.zero_point() for side in sides if values.holds_codes(side)]
    if len(zeros) == 2 and zeros[0] is not None and zeros[1] is not None:
        _product_of_codes(values, node, sides, (zeros[0], zeros[1]))
    else:
        _product_of_streams(values, node, [values.settle(name, node) for name in (first, second)])


def _product_of_codes(values: Values, node: Node, factors: list[Scaled], zeros: tuple[int, int]) -> None:
    tensors = [value.tensor for value in factors]
    sides = [values.graph.ranges[name].shifted(-zero) for name, zero in zip(tensors, zeros, strict=True)]
    output = values.graph.fresh(f"{node.output}_int")
    values.graph.shapes[output] = values.graph.shapes[node.output]
    new = Node(Multiply(zeros), tensors, output, node.source)
    values.emit(new, _product_range(*sides).require_int32(node.label), "int32")
    forms = [
        a.rationalised().without_offset().scaled(b.alpha())
        for a, b in zip(factors[0].forms, factors[1].forms, strict=True)
    ]
    values.scaled[node.output] = Scaled(output, forms, np.zeros(len(forms)))
    values.result.changed.append(f"{node.label}: the product of two tensors of codes, exact")


def _product_of_streams(values: Values, node: Node, factors: list[Scaled]) -> None:
    """On settled integers; one shift a channel leaves a stream within 2^26."""
    tensors = [values.int32(value.tensor) for value in factors]
    ranges = [values.graph.ranges[name] for name in tensors]
    product = _product_range(*ranges)
    largest = np.maximum(np.abs(product.lo), np.abs(product.hi)).tolist()
    shifts = [(each // FINE_TARGET).bit_length() for each in largest]
    d, halves = np.array(shifts), np.array([1 << shift >> 1 for shift in shifts])
    output = values.graph.fresh(f"{node.output}_int")
    values.graph.shapes[output] = values.graph.shapes[node.output]
    interval = Interval((product.lo + halves) >> d, (product.hi + halves) >> d)
    new = Node(StreamMultiply(tuple(shifts)), tensors, output, node.source)
    values.emit(new, interval.require_int32(node.label), "int32")
    forms = [
        ChannelForm(a.alpha() * b.alpha() * (1 << shift))
        for a, b, shift in zip(factors[0].forms, factors[1].forms, shifts, strict=True)
    ]
    one, other = (value.error for value in factors)
    a, b = (np.maximum(np.abs(each.lo), np.abs(each.hi)) for each in ranges)
    error = (a * other + b * one + one * other) / 2.0**d + np.where(d > 0, 0.5, 0.0)
    values.scaled[node.output] = Scaled(output, forms, error * (1 + 2.0**-40))
    values.result.changed.append(
        f"{node.label}: the product of two streams, error at most {error.max():.3g} output units"
    )


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


def _product_range(a: Interval, b: Interval) -> Interval:
    ends = [x * y for x in (a.lo, a.hi) for y in (b.lo, b.hi)]
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
        next_command="fold the constant into the weights in front of this node, or write the file without it "
        "(NNCF: smooth_quant_alphas=AdvancedSmoothQuantParameters(matmul=-1))",
    )


def _broadcast(node: Node, first: tuple[int, ...], second: tuple[int, ...]) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"node {node.label}: {node.op.name} broadcasts {list(first)} and {list(second)}",
        valid="operands of one shape, or one of them with one element a channel",
    )
