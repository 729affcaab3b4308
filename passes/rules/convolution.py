"""Convolutions: codes and integer weights make accumulators, and the scales move behind them (Eq. 4)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.integer import ranges
from aqd_deploy.integer.operations.convolution import MAX_OFFSET
from aqd_deploy.integer.ranges import Interval
from aqd_deploy.integer.rational import ChannelForm, product
from aqd_deploy.passes.constants import finite_reals
from aqd_deploy.passes.contract import COMPLETE
from aqd_deploy.passes.foreign_operations import ConvOffset
from aqd_deploy.passes.graph import Node, Quantized
from aqd_deploy.passes.integer_operations import Accumulators, ConvInteger, ConvOdd, PadImage
from aqd_deploy.passes.operations import Conv
from aqd_deploy.passes.values import CODE_BOUNDS, Scaled, Values


@dataclass(frozen=True)
class _Codes:
    """What a convolution reads: `source`, stored as `dtype`, in windows that are padded as `pads` say.

    `response` [O]: Σ w·zero point, to be taken from the accumulators, 0 where ConvInteger does so itself with
    its input `zero_point_name`.
    """

    source: str
    dtype: str
    response: list[Fraction]
    pads: tuple[int, ...]
    zero_point: int = 0
    zero_point_name: tuple[str, ...] = ()


def convolution(values: Values, node: Node, op: Conv) -> None:
    """Conv(η_x·α_x, η_w·α_w) + bias = acc·α_x·α_w + bias with acc = ConvInteger(η_x, η_w), exact.

    It asks for 8-bit codes of one α in each group, with whole numbers for zero where it pads.
    UnsupportedModelError for others.
    """
    graph = values.graph
    weights, value = _operands(values, node)
    alphas = _input_scales(node, op, value)
    scales = weights.scales * (len(weights.values) // len(weights.scales))
    out = len(scales) // op.group
    products = [product(alphas[o // out], scale) for o, scale in enumerate(scales)]
    codes = _codes(values, node, op, value, weights)
    bias = [Fraction(0)] * len(products)
    if len(node.inputs) > 2 and node.inputs[2]:
        bias = finite_reals(graph, node, node.inputs[2], "bias", len(products))
    forms = [
        ChannelForm(alpha, b - alpha * response if response else b)
        for alpha, b, response in zip(products, bias, codes.response, strict=True)
    ]
    accumulator = graph.fresh(f"{node.output}_acc")
    graph.shapes[accumulator] = graph.shapes[node.output]
    new = _accumulators(values, node, op, codes, weights, accumulator)
    assert isinstance(new.op, Accumulators), "made above"
    values.emit(new, accumulator_range(new, new.op, graph.ranges[codes.source]), "int32")
    values.scaled[node.output] = Scaled(accumulator, forms, np.zeros(len(forms)))
    values.result.changed.append(f"{node.label}: {new.op.name}")


def _operands(values: Values, node: Node) -> tuple[Quantized, Scaled]:
    weights = values.graph.quantized.get(node.inputs[1])
    value = values.scaled.get(node.inputs[0])
    if weights is None or value is None or not values.holds_codes(value):
        which = "weights aren't" if weights is None else "input isn't"
        raise UnsupportedModelError(
            f"convolution {node.label}: its {which} quantized in front of it, so it is a float layer (AQD* "
            "leaves the first and the last layers in float)",
            valid="8-bit codes behind a DequantizeLinear, and weights behind another",
            next_command=COMPLETE,
        )
    if len(weights.scales) > 1 and weights.axis != 0:
        raise UnsupportedModelError(
            f"convolution {node.label}: {len(weights.scales)} weight scales along axis {weights.axis}",
            valid="one, or one per output channel (axis 0)",
            next_command="quantize the weights along axis 0, or with one scale",
        )
    return weights, value


def _input_scales(node: Node, op: Conv, value: Scaled) -> list[Fraction]:
    """The input's α in each group."""
    alphas = [form.alpha() for form in value.forms]
    size = len(alphas) // op.group
    groups = [alphas[first : first + size] for first in range(0, len(alphas), size)]
    if any(len(set(group)) > 1 for group in groups):
        raise UnsupportedModelError(
            f"convolution {node.label}: its input has one scale per channel",
            received=f"{len(set(alphas))} scales in {op.group} groups",
            valid="one scale in each group; for the image std = [s, s, s]",
            next_command="quantize this tensor per tensor, or export with std [1, 1, 1]",
        )
    return [group[0] for group in groups]


def _codes(values: Values, node: Node, op: Conv, value: Scaled, weights: Quantized) -> _Codes:
    """Where the zero points go: into ConvInteger, or into the offset, the padding being codes of 0."""
    source, zeros = value.tensor, value.zeros()
    dtype, pads = values.dtypes[source], op.window.pads
    none = [Fraction(0)] * len(weights.values)
    if zeros is None:
        raise UnsupportedModelError(
            f"convolution {node.label}: its input has a scale of 0", valid="scales other than 0"
        )
    if not any(zeros):
        return _Codes(source, dtype, none, pads)
    low, high = CODE_BOUNDS[dtype]
    whole = all(zero.denominator == 1 and low <= zero <= high for zero in zeros)
    pixels = source in values.graph.inputs and dtype == "uint8"
    zero = value.zero_point()
    # ConvOdd has no zero point: the padding becomes codes, the rest a number of each output channel.
    odd = _is_odd(weights.values) and op.group == 1 and dtype == "uint8"
    if whole and zero is not None and not pixels and not odd:
        name = values.constants(node, "zero_point", np.array(zero, dtype=dtype))
        return _Codes(source, dtype, none, pads, zero, (name,))
    response = _zero_response(weights, zeros, op.group)
    if not any(pads):
        return _Codes(source, dtype, response, pads)
    if not whole:
        raise UnsupportedModelError(
            f"convolution {node.label}: it pads with zeros, for which its input has no code",
            received=float(next(zero for zero in zeros if zero.denominator > 1 or not low <= zero <= high)),
            valid=f"zero points from {low} to {high}, or no padding",
        )
    return _Codes(_padded(values, node, value, zeros, pads), dtype, response, (0, 0, 0, 0))


def _zero_response(weights: Quantized, zeros: list[Fraction], group: int) -> list[Fraction]:
    """Σ w·zero point per output channel."""
    out_channels, per_group = weights.values.shape[:2]
    index = np.repeat(np.arange(group), out_channels // group)[:, None] * per_group + np.arange(per_group)
    sums = weights.values.sum(axis=(2, 3)).tolist()
    return [
        sum((w * zeros[i] for w, i in zip(row, channels, strict=True)), Fraction(0))
        for row, channels in zip(sums, index.tolist(), strict=True)
    ]


def _padded(values: Values, node: Node, value: Scaled, zeros: list[Fraction], pads: tuple[int, ...]) -> str:
    """The input padded with each channel's code of 0 (the mean pixel)."""
    graph, (top, left, bottom, right) = values.graph, pads
    source = value.tensor
    dtype = values.dtypes[source]
    batch, channels, height, width = graph.shapes[source]
    name = graph.fresh(f"{source}_mean")
    codes = np.array([int(zero) for zero in zeros], dtype=dtype)
    graph.constants[name] = codes.reshape(1, channels, 1, 1)
    padded = graph.fresh(f"{source}_padded")
    graph.shapes[padded] = (batch, channels, height + top + bottom, width + left + right)
    inside = graph.ranges[source]
    interval = Interval(np.minimum(inside.lo, codes), np.maximum(inside.hi, codes))
    values.emit(Node(PadImage(pads), [source, name], padded, node.source), interval, dtype)
    return padded


def _accumulators(
    values: Values, node: Node, op: Conv, codes: _Codes, weights: Quantized, accumulator: str
) -> Node:
    """ConvInteger where the weights fit int8, ConvOdd for 8-bit AQD's, else ConvOffset; the weight constant
    has the initializer's name, so that shared weights stay one tensor.
    """
    q, window = weights.values, replace(op.window, pads=codes.pads)
    if q.min() >= -128 and q.max() <= 127:
        name = _weight_constant(values, weights.name, q.astype(np.int8))
        inputs = [codes.source, name, *codes.zero_point_name]
        return Node(ConvInteger(window, op.group, q, codes.zero_point), inputs, accumulator, node.source)
    plain = op.group == 1 and not codes.zero_point_name and codes.dtype == "uint8"
    if plain and _is_odd(q):
        name = _weight_constant(values, weights.name, ((q - 1) // 2).astype(np.int8))
        inputs = [codes.source, name, _ones(values, (1, *q.shape[1:]))]
        return Node(ConvOdd(window, op.group, q, codes.zero_point), inputs, accumulator, node.source)
    return _with_offsets(values, node, replace(op, window=window), codes, weights, accumulator)


def _is_odd(weights: np.ndarray) -> bool:
    """Whether weights that do not fit int8 are odd numbers within ±255, as AQD's of 8 bits are."""
    low, high = weights.min(), weights.max()
    return bool((low < -128 or high > 127) and (weights % 2 == 1).all() and low >= -255 and high <= 255)


def _with_offsets(
    values: Values, node: Node, op: Conv, codes: _Codes, weights: Quantized, accumulator: str
) -> Node:
    """ConvOffset: uint8 weights q with a zero point z are q − 128 and the offset 128 − z."""
    q = weights.values
    low, high = q.min(axis=(1, 2, 3)), q.max(axis=(1, 2, 3))
    offsets = np.where((low < -128) | (high > 127), np.where(high > 127, high - 127, low + 128), 0)
    stored = q - offsets.reshape(-1, 1, 1, 1)
    if stored.min() < -128 or abs(offsets).max() > MAX_OFFSET:
        raise UnsupportedModelError(
            f"convolution {node.label}: weights in [{q.min()}, {q.max()}]",
            valid="256 neighbouring integers in each output channel, or odd numbers within ±255 behind "
            "uint8 codes (8-bit AQD)",
        )
    name = _weight_constant(values, weights.name, stored.astype(np.int8))
    zero = codes.zero_point_name or (values.constants(node, "zero_point", np.array(0, dtype=codes.dtype)),)
    new = ConvOffset(op.window, op.group, q, codes.zero_point, offsets)
    return Node(new, [codes.source, name, *zero], accumulator, node.source)


def _ones(values: Values, shape: tuple[int, ...]) -> str:
    """The window-sum weights of all convolutions of this shape."""
    key = "ones_" + "x".join(map(str, shape))
    if key not in values.shared:
        name = values.shared[key] = values.graph.fresh(key)
        values.graph.constants[name] = np.ones(shape, dtype=np.int8)
    return values.shared[key]


def _weight_constant(values: Values, name: str, array: np.ndarray) -> str:
    """Stores integer weights under the initializer's name, once; under another one where that holds other
    values or where a node reads the initializer itself.
    """
    stored = values.stored.get(name)
    if name in values.read or (stored is not None and not np.array_equal(stored, array)):
        name = values.graph.fresh(name)
    values.graph.constants[name] = values.stored[name] = array
    return name


def accumulator_range(node: Node, op: Accumulators, source: Interval) -> Interval:
    """The proven interval of a convolution; RangeError where it leaves int32."""
    padded = any(op.window.pads)
    interval = ranges.convolution(op.weights, source, op.group, op.zero_point, padded)
    return interval.require_int32(node.label)
