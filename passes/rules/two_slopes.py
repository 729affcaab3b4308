"""Quantized leaky ReLUs of streams: the larger of two requantizations, one for each slope."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np

from aqd_deploy.integer.fixedpoint import MultiplyShift as Constants
from aqd_deploy.integer.fixedpoint import solve_requantize_channels
from aqd_deploy.integer.ranges import Interval
from aqd_deploy.integer.rational import ChannelForm
from aqd_deploy.integer.staircase import Quantizer, Staircases, staircases
from aqd_deploy.passes.constants import finite_reals
from aqd_deploy.passes.graph import Graph
from aqd_deploy.passes.integer_operations import RequantizeMax
from aqd_deploy.passes.operations import Function, Identity, PRelu
from aqd_deploy.passes.slices import Slice

_PRODUCTS = 2.0**61
"""Beyond it k·2^d is more than any η·c + B."""


def slope_of(graph: Graph, found: Slice) -> Fraction | None:
    """The slope a of a slice that is max(x, a·x) and nothing else, 0 < a < 1; None for others."""
    nodes = [node for node in found.nodes if not isinstance(node.op, Identity)]
    if len(nodes) != 1:
        return None
    (node,) = nodes
    slope = None
    if isinstance(node.op, Function) and node.op.function == "LeakyRelu":
        slope = Fraction(node.op.parameters[0])
    elif isinstance(node.op, PRelu):
        slope = finite_reals(graph, node, node.inputs[1], "slope", 1)[0]
    return slope if slope is not None and 0 < slope < 1 else None


def two_slopes(
    forms: list[ChannelForm], slope: Fraction, quantizer: Quantizer, inside: Interval
) -> tuple[Staircases, list[Constants], list[Constants], np.ndarray]:
    """Constants for clip(round_half_even(max(x, a·x) / step) + z, lo, hi) of x = η·α + β, η in `inside` [C].

    Codes above z are those of x, the others those of a·x. Each half of the staircase gets the constants of a
    requantization of its codes; where the larger of the two is no less than a code from its own T_k on and
    less before it, in whole numbers and for all codes, it is exact. Returns the exact staircases, the
    constants for x, those for a·x, and the thresholds of the larger of both, int64 [C, steps].
    """
    zero = min(max(quantizer.zero_point, quantizer.lo), quantizer.hi)
    flat = [replace(form, a=form.a * slope, b0=form.b0 * slope, b1=form.b1 * slope) for form in forms]
    upper = staircases(forms, replace(quantizer, lo=zero), inside.lo, inside.hi)
    lower = staircases(flat, replace(quantizer, hi=zero), inside.lo, inside.hi)
    table = np.concatenate([lower.thresholds, upper.thresholds], axis=1)
    stairs = Staircases(quantizer, upper.sign, upper.lo, upper.hi, table, upper.slope)
    above = solve_requantize_channels(upper).constants
    # A channel that never comes above z leaves all to the other slope.
    above = [
        Constants(0, quantizer.lo, 0) if unused else constants
        for unused, constants in zip((upper.codes()[1] == zero).tolist(), above, strict=True)
    ]
    below = solve_requantize_channels(lower).constants
    return stairs, above, below, np.minimum(_reached(stairs, above), _reached(stairs, below))


def requantize_max(
    stairs: Staircases, above: list[Constants], below: list[Constants], table: np.ndarray, dtype: str,
    input_errors: np.ndarray,
) -> tuple[RequantizeMax, Interval]:  # fmt: skip
    """The operation of what `two_slopes` found, and the interval of its codes."""
    deviations = np.abs(stairs.thresholds - table).sum(axis=1).tolist()
    (low, high), (first, last) = stairs.codes(), replace(stairs, thresholds=table).codes()
    interval = Interval(np.minimum(low, first), np.maximum(high, last))
    return RequantizeMax(stairs, dtype, input_errors, above, below, deviations), interval


def _reached(stairs: Staircases, constants: list[Constants]) -> np.ndarray:
    """The smallest sign·η of the range from which on (η·c + B) >> d is at least each code above lo, as
    `Staircases.thresholds` [C, steps].

    k·2^d − B is exact in int64 for k·2^d within ±2^61, since |B| < 2^62; beyond that the sums of the range,
    which are less than 2^62, all lie on one side of k·2^d.
    """
    c, b, d = np.array([(m.c, m.b, m.d) for m in constants], dtype=np.int64).T[:, :, None]
    c, lo, hi = c * stairs.sign[:, None], stairs.lo[:, None], stairs.hi[:, None]
    codes = np.arange(stairs.quantizer.lo + 1, stairs.quantizer.hi + 1)
    size = codes * 2.0**d
    near = np.abs(size) <= _PRODUCTS
    edge = (np.where(near, codes, 0) << d) - b
    begin = np.where(c == 0, np.where(edge <= 0, lo, hi + 1), -(-edge // np.maximum(c, 1)))
    begin = np.where(near, begin, np.where(size < 0, lo, hi + 1))
    return np.clip(begin, lo, hi + 1)
