"""Windows of neighbours: the largest, the mean, and interpolation between pixels."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import TypeAlias

import numpy as np

from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.integer.domain import INT32_MAX
from aqd_deploy.integer.ranges import Interval
from aqd_deploy.passes.foreign_operations import ResizeLinear, StreamSumPool, SumPool
from aqd_deploy.passes.geometry import square_pool
from aqd_deploy.passes.graph import Node
from aqd_deploy.passes.operations import AveragePool, LinearResize, MaxPool
from aqd_deploy.passes.values import CODE_BOUNDS, Scaled, Values

_Sums: TypeAlias = SumPool | StreamSumPool | ResizeLinear


def max_pool(values: Values, node: Node, op: MaxPool) -> None:
    """On the integers, since x grows with η where α > 0; other channels are settled first."""
    value = values.value(node.inputs[0], node)
    if any(form.a <= 0 for form in value.forms):
        value = values.settle(node.inputs[0], node)
    values.place(node, op if values.holds_codes(value) else square_pool(node, op.window), value)


def average_pool(values: Values, node: Node, op: AveragePool) -> None:
    """Sums of windows; 1/N goes into α. Padding counts as 0."""
    window, padded = op.window, any(op.window.pads)
    count = window.kernel[0] * window.kernel[1]
    if padded and not op.padded:
        raise UnsupportedModelError(
            f"node {node.label}: an average divides by other numbers where its padding doesn't count",
            received=f"pads {list(window.pads)}, count_include_pad 0",
            valid="count_include_pad 1, or no pads",
            next_command="export with count_include_pad=True, or without padding",
        )
    value = values.value(node.inputs[0], node)
    if values.holds_codes(value):
        pad = _pad_code(values, node, value) if padded else 0
        new: _Sums = SumPool(window, pad)
    else:
        value, pad, new = _with_room(values, node, count, settled=padded), 0, StreamSumPool(window)
    inside = values.graph.ranges[value.tensor]
    low, high = inside.lo, inside.hi
    if padded:
        low, high = np.minimum(low, pad), np.maximum(high, pad)
    _stream(values, node, new, value, Interval(low * count, high * count), count)


def _pad_code(values: Values, node: Node, value: Scaled) -> int:
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
    new = ResizeLinear(op.factors, op.half_pixel)
    value, count = values.value(node.inputs[0], node), new.gain
    if not values.holds_codes(value):
        value = _with_room(values, node, count)
    inside = values.graph.ranges[value.tensor]
    _stream(values, node, new, value, Interval(inside.lo * count, inside.hi * count), count)


def _with_room(values: Values, node: Node, count: int, settled: bool = False) -> Scaled:
    """What the node reads, as integers of which `count` can be added up."""
    value = values.value(node.inputs[0], node)
    low, high = values.graph.ranges[value.tensor].bounds
    if not settled and max(-low, high) * count <= INT32_MAX:
        return value
    return values.settle(node.inputs[0], node, room=count)


def _stream(values: Values, node: Node, op: _Sums, value: Scaled, interval: Interval, count: int) -> None:
    """The int32 sums of `count` integers each, which stand for their mean."""
    tensor = values.graph.fresh(f"{node.output}_int")
    values.graph.shapes[tensor] = values.graph.shapes[node.output]
    values.emit(Node(op, [value.tensor], tensor, node.source), interval.require_int32(node.label), "int32")
    share = Fraction(1, count)
    forms = [replace(form, a=form.a * share) for form in value.forms]
    values.scaled[node.output] = Scaled(tensor, forms, value.error * count)
