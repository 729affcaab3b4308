"""Functions of one tensor's elements: affine ones move into the scale, ReLU and Clip run on the integers."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from fractions import Fraction

import numpy as np

from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.integer.domain import INT32_MAX
from aqd_deploy.integer.fixedpoint import float_above
from aqd_deploy.integer.ranges import Interval
from aqd_deploy.integer.rational import SQRT_BITS, total
from aqd_deploy.passes.constants import clip_bounds, finite_reals
from aqd_deploy.passes.contract import COMPLETE
from aqd_deploy.passes.foreign_operations import Floor, Lookup, Top
from aqd_deploy.passes.graph import Node
from aqd_deploy.passes.integer_operations import Max
from aqd_deploy.passes.numerics import PAPER
from aqd_deploy.passes.operations import BatchNormalization, Clip, Function, Identity, PRelu, Relu, Scale
from aqd_deploy.passes.values import CODE_BOUNDS, Scaled, Values


def scale(values: Values, node: Node, op: Scale) -> None:
    """The integers, with what they stand for."""
    values.scaled[node.output] = Scaled(node.inputs[0], op.forms, np.zeros(len(op.forms)))


def identity(values: Values, node: Node, _: Identity) -> None:
    """The same value."""
    values.scaled[node.output] = values.value(node.inputs[0], node)


def batch_norm(values: Values, node: Node, op: BatchNormalization) -> None:
    """Eq. 5: α ← α·γ/σ, β ← (β − μ)·γ/σ + β_bn."""
    value = values.value(node.inputs[0], node)
    channels = len(value.forms)
    parameters = [finite_reals(values.graph, node, name, "parameter", channels) for name in node.inputs[1:5]]
    forms = []
    for form, gamma, beta, mean, variance in zip(value.forms, *parameters, strict=True):
        v = total(variance, op.epsilon)
        if v.numerator <= 0:
            raise UnsupportedModelError(
                f"batch norm {node.label}: variance + ε isn't positive",
                received=float(v),
                valid="a positive sum",
            )
        forms.append(form.batch_normed(gamma, beta, mean, v))
    error = value.error + _first_sigma(values, value)
    values.scaled[node.output] = Scaled(value.tensor, forms, error)
    if values.numerics == PAPER:
        values.scaled[node.output] = values.settle(node.output, node)
    values.result.changed.append(f"{node.label}: batch norm into the constants behind it")


def _first_sigma(values: Values, value: Scaled) -> np.ndarray:
    """What a batch norm behind another one adds to the error: it takes the first σ to SQRT_BITS bits."""
    interval = values.graph.ranges[value.tensor]
    largest = np.maximum(abs(interval.lo), abs(interval.hi)).tolist()
    unit = Fraction(1, 1 << (SQRT_BITS - 1))
    return np.array(
        [
            float_above((eta + abs(form.b1 / form.a)) * unit) if form.irrational else 0.0
            for form, eta in zip(value.forms, largest, strict=True)
        ]
    )


def _clipped_codes(values: Values, node: Node) -> bool:
    """Codes that have a code for each bound stay codes: a table that clips them. False for other values."""
    value = values.value(node.inputs[0], node)
    if not values.holds_codes(value) or len(set(value.forms)) > 1 or value.forms[0].a <= 0:
        return False
    form, dtype = value.forms[0].rationalised(), values.dtypes[value.tensor]
    ends = []
    for bound, end in zip(clip_bounds(values.graph, node), CODE_BOUNDS[dtype], strict=True):
        code = Fraction(end) if bound is None else (bound - form.b0) / form.a
        ends.append(min(max(code, Fraction(CODE_BOUNDS[dtype][0])), Fraction(CODE_BOUNDS[dtype][1])))
    if any(end.denominator > 1 for end in ends):
        return False
    low, high = map(int, ends)
    table = np.clip(np.arange(CODE_BOUNDS[dtype][0], CODE_BOUNDS[dtype][1] + 1), low, high).tolist()
    interval = values.graph.ranges[value.tensor].clipped(low, high)
    values.place(node, Lookup.by_code(table, dtype, dtype), value, interval)
    return True


def relu(values: Values, node: Node, _: Relu | Clip) -> None:
    """The value is settled on integers, s = round(β/α) (Eq. 6), then max(η, 0)."""
    if _clipped_codes(values, node):
        return
    value = values.settle(node.inputs[0], node)
    interval = values.graph.ranges[value.tensor]
    tensor = value.tensor
    if interval.bounds[0] < 0:
        tensor = values.graph.fresh(f"{node.output}_int")
        new = Node(Max(), [values.int32(value.tensor)], tensor, node.source)
        values.emit(new, interval.clipped(0, 1 << 31), "int32")
    else:
        values.result.left_alone.append(f"{node.label}: no Max, its integers are never negative")
    values.scaled[node.output] = replace(value, tensor=tensor)


def clip(values: Values, node: Node, op: Clip) -> None:
    """A Clip that no quantizer took: as a ReLU where it is one, else between the nearest integers."""
    if _clipped_codes(values, node):
        return
    low, high = clip_bounds(values.graph, node)
    value = values.settle(node.inputs[0], node)
    interval = values.graph.ranges[value.tensor]
    tops = [form.alpha() * int(top) for form, top in zip(value.forms, interval.hi, strict=True)]
    if low == 0 and (high is None or max(tops) <= high):
        relu(values, node, op)
        return
    error, tensor = value.error, values.int32(value.tensor)
    for bound, kind in ((low, Floor), (high, Top)):
        if bound is None:
            continue
        exact = [bound / form.alpha() for form in value.forms]
        ends = np.array([_within_int32(round(each)) for each in exact], dtype=np.int64)
        missed = [float_above(abs(each - int(end))) for each, end in zip(exact, ends, strict=True)]
        limit = np.maximum if kind is Floor else np.minimum
        interval = Interval(limit(interval.lo, ends), limit(interval.hi, ends))
        reached = interval.lo <= ends if kind is Floor else interval.hi >= ends
        error = np.where(reached, np.maximum(error, missed), error)
        output = values.graph.fresh(f"{node.output}_int")
        values.emit(Node(kind(ends), [tensor], output, node.source), interval, "int32")
        tensor = output
    values.scaled[node.output] = replace(value, tensor=tensor, error=error)


def _within_int32(value: int) -> int:
    """A bound that no stream reaches is as good as one further away."""
    return min(max(value, -INT32_MAX), INT32_MAX)


def leaky_relu(values: Values, node: Node, slope: Fraction) -> None:
    """slope·x + (1 − slope)·max(x, 0), as a sum of two streams."""
    relu(values, node, Relu())
    count = len(values.scaled[node.output].forms)
    positive = values.scaled[node.output].scaled([1 - slope] * count)
    value = values.settle(node.inputs[0], node).scaled([slope] * count)
    values.scaled[node.output] = values.added(node, node.output, value, positive)


def function(values: Values, node: Node, op: Function | PRelu) -> None:
    """A leaky ReLU goes on as a stream; what else neither a table nor thresholds took has no integers."""
    if isinstance(op, PRelu) and values.graph.is_constant(node.inputs[1]):
        count = int(np.prod(values.graph.shapes[node.inputs[1]], dtype=int))
        slopes = finite_reals(values.graph, node, node.inputs[1], "slope", count)
        if count == 1:
            leaky_relu(values, node, slopes[0])
            return
    if isinstance(op, Function) and op.function == "LeakyRelu":
        leaky_relu(values, node, op.parameters[0])
        return
    kinds = Counter(
        each.op.name
        for each in values.graph.nodes
        if isinstance(each.op, Function) and each.op.function != "LeakyRelu"
    )
    told = ", ".join(f"{kind} ×{count}" if count > 1 else kind for kind, count in kinds.most_common())
    raise UnsupportedModelError(
        f"node {node.label}: {op.name} isn't right in front of a quantizer, so it has no integer form",
        received=told,
        valid="functions of one tensor that nothing but QuantizeLinear reads",
        next_command=COMPLETE,
    )
