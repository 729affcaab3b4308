"""The proven interval of what each operation returns, and the rules for constants that depend on it.

Raised here: RangeError where an integer leaves what its arithmetic can hold, UnsupportedModelError for a
constant that gives the operation another meaning. Intervals are per channel.
"""

from __future__ import annotations

import numpy as np

from aqd_deploy.errors import RangeError, UnsupportedModelError
from aqd_deploy.integer import ranges
from aqd_deploy.integer.dialect import C_BITS, MAX_SHIFT, PRODUCT_LIMIT
from aqd_deploy.integer.graph import Graph, Node, constant
from aqd_deploy.integer.ranges import Interval


def of_data(node: Node, graph: Graph) -> Interval:
    """Operations that only move values of their data input."""
    return graph.ranges[node.slots[0]]


def of_pad_image(node: Node, graph: Graph) -> Interval:
    """The image's values, and those of the padding."""
    source = graph.ranges[node.slots[0]]
    values = constant(graph, node, 1).reshape(-1).astype(np.int64)
    return Interval(np.minimum(source.lo, values), np.maximum(source.hi, values))


def of_convolution(node: Node, graph: Graph) -> Interval:
    """The accumulators, from the weights themselves."""
    zero = int(constant(graph, node, 2)) if node.op == "ConvInteger" and len(node.slots) > 2 else 0
    sums, padded = _tap_sums(node, graph), any(node.attributes["pads"])
    source = graph.ranges[node.slots[0]]
    interval = ranges.accumulators(sums, source, node.attributes["group"], zero, padded)
    return interval.require_int32(node.name)


def _tap_sums(node: Node, graph: Graph) -> ranges.TapSums:
    """Made once for a weight that several convolutions read."""
    key = (node.op, node.slots[1])
    if key not in graph.tap_sums:
        weights = constant(graph, node, 1)
        odd = node.op == "ConvOdd"
        graph.tap_sums[key] = ranges.tap_sums(2 * weights.astype(np.int16) + 1 if odd else weights)
    return graph.tap_sums[key]


def of_add(node: Node, graph: Graph) -> Interval:
    """A bias per channel, or another stream."""
    source = graph.ranges[node.slots[0]]
    if node.slots[1] in graph.constants:
        return source.shifted(_flat(graph, node, 1)).require_int32(node.name)
    other = graph.ranges[node.slots[1]]
    return Interval(source.lo + other.lo, source.hi + other.hi).require_int32(node.name)


def of_max(node: Node, graph: Graph) -> Interval:
    """ReLU."""
    if np.any(constant(graph, node, 1)):
        raise UnsupportedModelError(f"Max {node.name} is not with 0", valid="Max(x, 0)")
    source = graph.ranges[node.slots[0]]
    return Interval(np.maximum(source.lo, 0), np.maximum(source.hi, 0))


def of_multiply_shift(node: Node, graph: Graph) -> Interval:
    """(x·c + B) >> d."""
    return _scaled(node, graph, graph.ranges[node.slots[0]], 1).require_int32(node.name)


def of_skip_add(node: Node, graph: Graph) -> Interval:
    """Both sides fit int32 on their own, and so does the sum."""
    left = _scaled(node, graph, graph.ranges[node.slots[0]], 2).require_int32(node.name)
    right = _scaled(node, graph, graph.ranges[node.slots[1]], 5).require_int32(node.name)
    return Interval(left.lo + right.lo, left.hi + right.hi).require_int32(node.name)


def of_requantize(node: Node, graph: Graph) -> Interval:
    """clip((x·c + B) >> d, lo, hi)."""
    scaled = _scaled(node, graph, graph.ranges[node.slots[0]], 1)
    return scaled.clipped(node.attributes["lo"], node.attributes["hi"])


def of_threshold(node: Node, graph: Graph) -> Interval:
    """`sign` is ±1; each threshold is reached everywhere, somewhere or nowhere in the range of sign·x."""
    source, sign = graph.ranges[node.slots[0]], _flat(graph, node, 1)
    if not np.isin(sign, (-1, 1)).all():
        raise UnsupportedModelError(
            f"the sign of {node.label} has other values than 1 and -1",
            received=int(sign[~np.isin(sign, (-1, 1))][0]),
        )
    ends = source.lo * sign, source.hi * sign
    table = constant(graph, node, 2).reshape(-1, len(sign))
    reached = [(table <= end).sum(axis=0) for end in (np.minimum(*ends), np.maximum(*ends))]
    return Interval(node.attributes["lo"] + reached[0], node.attributes["lo"] + reached[1])


def of_concat(node: Node, graph: Graph) -> Interval:
    """Channels side by side."""
    return ranges.concatenate([graph.ranges[name] for name in node.inputs])


def _flat(graph: Graph, node: Node, index: int) -> np.ndarray:
    """A constant [1, C, 1, 1] as int64 [C]."""
    return constant(graph, node, index).reshape(-1).astype(np.int64)


def _scaled(node: Node, graph: Graph, source: Interval, index: int) -> Interval:
    """(x·c + B) >> d with c, B, d the inputs of `node` from `index` on.

    c has at most 31 bits and a sign, d is from 0 to 62, and |x·c + B| < 2^62 over the range of x.
    """
    c, b = _flat(graph, node, index), _flat(graph, node, index + 1)
    d = constant(graph, node, index + 2).reshape(-1)
    limit = (1 << C_BITS) - 1
    _require(node, "multiplier c", c, (c >= -limit) & (c <= limit), f"{-limit} to {limit}")
    _require(node, "shift d", d, d <= MAX_SHIFT, f"0 to {MAX_SHIFT}")
    ends = source.lo * c, source.hi * c
    low, high = np.minimum(*ends), np.maximum(*ends)
    # |x·c| < 2^62, so neither difference leaves int64, which the sum with an arbitrary B could.
    fits = (b > -PRODUCT_LIMIT - low) & (b < PRODUCT_LIMIT - high)
    if not fits.all():
        channel = int(np.argmin(fits))
        x = f"[{source.lo[channel]}, {source.hi[channel]}]"
        raise RangeError(
            f"x·c + B of {node.label} leaves 62 bits in channel {channel}",
            received=f"x in {x}, c = {c[channel]}, B = {b[channel]}",
            valid="|x·c + B| < 2^62",
            next_command="aqd-deploy lower QDQ.onnx -o M.int.onnx, which writes constants that fit",
        )
    shift = d.astype(np.int64)
    return Interval((low + b) >> shift, (high + b) >> shift)


def _require(node: Node, what: str, values: np.ndarray, fits: np.ndarray, valid: str) -> None:
    if not fits.all():
        channel = int(np.argmin(fits))
        raise RangeError(
            f"the {what} of {node.label} is out of range in channel {channel}",
            received=int(values[channel]),
            valid=valid,
        )
