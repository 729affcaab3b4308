"""Windows of neighbours: the largest, the mean, and interpolation between pixels."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np

from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.integer.ranges import Interval
from aqd_deploy.passes.contract import COMPLETE
from aqd_deploy.passes.foreign_operations import ResizeLinear, SumPool
from aqd_deploy.passes.geometry import square_pool
from aqd_deploy.passes.graph import Node
from aqd_deploy.passes.operations import AveragePool, LinearResize, MaxPool
from aqd_deploy.passes.values import CODE_BOUNDS, Scaled, Values


def max_pool(values: Values, node: Node, op: MaxPool) -> None:
    """On the integers, since x grows with η where α > 0; other channels are settled first."""
    value = values.value(node.inputs[0], node)
    if any(form.a <= 0 for form in value.forms):
        value = values.settle(node.inputs[0], node)
    values.place(node, op if values.holds_codes(value) else square_pool(node, op.window), value)


def average_pool(values: Values, node: Node, op: AveragePool) -> None:
    """Sums of windows of codes; 1/N goes into α. Padding counts as codes of 0."""
    value = _codes(values, node)
    window = op.window
    count = window.kernel[0] * window.kernel[1]
    pad, inside = 0, values.graph.ranges[value.tensor]
    low, high = inside.lo, inside.hi
    if any(window.pads):
        pad = _pad_code(values, node, op, value)
        low, high = np.minimum(low, pad), np.maximum(high, pad)
    _stream(values, node, SumPool(window, pad), value, Interval(low * count, high * count), count)


def _pad_code(values: Values, node: Node, op: AveragePool, value: Scaled) -> int:
    if not op.padded:
        raise UnsupportedModelError(
            f"node {node.label}: an average divides by other numbers where its padding doesn't count",
            received=f"pads {list(op.window.pads)}, count_include_pad 0",
            valid="count_include_pad 1, or no pads",
        )
    zero = value.zero_point()
    low, high = CODE_BOUNDS[values.dtypes[value.tensor]]
    if zero is None or not low <= zero <= high:
        raise UnsupportedModelError(
            f"node {node.label}: it pads with zeros, for which its input has no code",
            valid=f"one zero point from {low} to {high}, or no padding",
        )
    return zero


def resize_linear(values: Values, node: Node, op: LinearResize) -> None:
    """Sums of neighbours with whole weights; their sum goes into α."""
    value, new = _codes(values, node), ResizeLinear(op.factors, op.half_pixel)
    inside, count = values.graph.ranges[value.tensor], new.gain
    _stream(values, node, new, value, Interval(inside.lo * count, inside.hi * count), count)


def _codes(values: Values, node: Node) -> Scaled:
    value = values.value(node.inputs[0], node)
    if not values.holds_codes(value):
        raise UnsupportedModelError(
            f"node {node.label}: {node.op.name} of {node.inputs[0]}, which isn't quantized to 8 bits",
            valid="codes behind a DequantizeLinear",
            next_command=COMPLETE,
        )
    return value


def _stream(
    values: Values, node: Node, op: SumPool | ResizeLinear, value: Scaled, interval: Interval, count: int
) -> None:
    """The int32 sums of `count` codes each, which stand for their mean."""
    tensor = values.graph.fresh(f"{node.output}_int")
    values.graph.shapes[tensor] = values.graph.shapes[node.output]
    values.emit(Node(op, [value.tensor], tensor, node.source), interval.require_int32(node.label), "int32")
    share = Fraction(1, count)
    forms = [replace(form, a=form.a * share) for form in value.forms]
    values.scaled[node.output] = Scaled(tensor, forms, value.error * count)
