"""Functions whose values go on without a quantizer: streams, by straight pieces of the function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.integer.fixedpoint import float_above
from aqd_deploy.integer.operations.pieces import pieces_image
from aqd_deploy.integer.operations.tables import MAX_STEPS
from aqd_deploy.integer.ranges import Interval
from aqd_deploy.integer.rational import ChannelForm
from aqd_deploy.passes.enclosures import Enclosure
from aqd_deploy.passes.foreign_operations import Pieces
from aqd_deploy.passes.graph import Node
from aqd_deploy.passes.rules.functions import brought, largest_of, shared_axis
from aqd_deploy.passes.slices import RealFunction, enclosing, exactly
from aqd_deploy.passes.streams import FINE_TARGET, STREAM_LIMIT
from aqd_deploy.passes.values import Scaled, Values

_FIRST_PIECES = 64

_PLACES = 32
"""At so many places a piece is held against its function."""

_FINEST, _COARSEST = 2.0**-28, 2.0**-16
"""How far a piece may be from its function, as a part of the largest value: the finest that doesn't take too
many pieces. An 8-bit quantizer of all values has steps of 2^-8 of them.
"""

_SURE = 2.0**-8
"""So much of the largest value is the furthest that a piece can be from its function between the places."""

_SLOPE_BITS, _MOST_SHIFT = 30, 34
"""A slope has so many bits, and with the shift a value of FINE_TARGET stays below 2^61."""


@dataclass(frozen=True)
class _Source:
    """What a function reads: int32 `tensor` of channels within `inside`, `error` [C] units from exact."""

    tensor: str
    inside: Interval
    error: np.ndarray


@dataclass(frozen=True)
class _Curve:
    """`pieces` of a function, the real number that one unit of its result stands for, and in that unit how
    far the result is from the function and the most by which it changes with one unit of a rounded argument.
    """

    pieces: Pieces
    scale: Fraction
    error: float
    slope: float


def real_function(values: Values, node: Node, op: RealFunction) -> None:
    """Of codes the value at each, rounded to 2^-26 of the largest. Of a stream straight lines between the
    function's values at up to 1024 integers, which lie closer where it bends.
    """
    name = op.found.source
    if name in values.dtypes:
        inside = values.graph.ranges[name]
        source = _Source(values.int32(name), inside, np.zeros(len(inside.lo)))
        try:
            curve = _at_each_code(exactly(values.graph, op.found), *inside.bounds)
        except ArithmeticError as error:
            raise _not_finite(node, op) from error
    else:
        source, axis = _on_one_axis(values, node, values.value(name, node))
        bounds = enclosing(values.graph, op.found)
        function = _Function(bounds, float(axis.a), float(axis.b0), *source.inside.bounds)
        curve = _straightened(node, op, function)
    new, tensor = curve.pieces, values.graph.fresh(f"{node.output}_int")
    image = pieces_image(new.thresholds, new.c, new.b, new.d, source.inside)
    assert image is not None, "values within FINE_TARGET, shifted by _MOST_SHIFT"
    values.graph.shapes[tensor] = values.graph.shapes[node.output]
    values.emit(Node(new, [source.tensor], tensor, node.source), image.require_int32(node.label), "int32")
    forms = [ChannelForm(curve.scale)] * len(image.lo)
    values.scaled[node.output] = Scaled(tensor, forms, source.error * curve.slope + curve.error)
    values.result.changed.append(
        f"{node.label}: {op.found.told} as a stream of {len(new.c)} pieces, "
        f"error at most {curve.error:.3g} output units, measured at {_PLACES} places of each"
    )


def _on_one_axis(values: Values, node: Node, value: Scaled) -> tuple[_Source, ChannelForm]:
    """The integers where all channels have one scale, else brought to one, 2^-29 of the largest value."""
    inside = values.graph.ranges[value.tensor]
    forms = [form.rationalised() for form in value.forms]
    if len(set(forms)) == 1 and forms[0].a > 0:
        return _Source(values.int32(value.tensor), inside, value.error), forms[0]
    axis = ChannelForm(largest_of(forms, inside) / STREAM_LIMIT)
    solutions, reached = shared_axis(forms, inside, axis)
    gain = np.array([float_above(abs(form.a) / axis.a) for form in forms])
    error = value.error * gain + np.array([solution.error for solution in solutions])
    return _Source(brought(values, node, value, solutions, reached), reached, error), axis


def _at_each_code(function: Callable[[Fraction], Fraction], low: int, high: int) -> _Curve:
    """A piece without slope for each code. ArithmeticError where one has no finite value."""
    reals = [function(Fraction(code)) for code in range(low, high + 1)]
    scale = (max(abs(real) for real in reals) or Fraction(1)) / FINE_TARGET
    exact = [real / scale for real in reals]
    rounded = [round(each) for each in exact]
    error = max(float_above(abs(each - near)) for each, near in zip(exact, rounded, strict=True))
    # A file has at least one threshold.
    thresholds = np.arange(low + 1, max(high, low + 1) + 1)
    offsets = np.array(rounded if high > low else rounded * 2, dtype=np.int64)
    none = np.zeros(len(offsets), np.int64)
    return _Curve(Pieces(thresholds, none, offsets, none), scale, error, 0.0)


@dataclass(frozen=True)
class _Function:
    """A function of integers within [`low`, `high`], which stand for `a`·η + `b`, in float64."""

    bounds: Callable[[Enclosure], Enclosure]
    a: float
    b: float
    low: int
    high: int

    def between(self, first: np.ndarray, last: np.ndarray) -> Enclosure:
        """What holds every value from one integer to the next."""
        ends = (np.clip(eta, self.low, self.high) * self.a + self.b for eta in (first, last))
        with np.errstate(invalid="ignore", over="ignore"):
            return self.bounds(Enclosure(*ends))

    def at(self, eta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The values, and by how much they may be wrong."""
        y = self.between(eta, eta)
        with np.errstate(invalid="ignore"):
            return (y.lo + y.hi) / 2, (y.hi - y.lo) / 2


def _not_finite(node: Node, op: RealFunction) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"node {node.label}: {op.found.told} isn't known to be finite for every number that "
        f"{op.found.source} can be",
        valid="functions that are finite everywhere within the range of what they read",
        next_command="put a QuantizeLinear right behind this function, or a Clip in front of it",
    )


def _straightened(node: Node, op: RealFunction, function: _Function) -> _Curve:
    """Pieces between integers; UnsupportedModelError where the function isn't finite, or bends too often."""
    low, high = function.low, function.high
    first = np.unique(np.linspace(low, max(high, low + 1), _FIRST_PIECES + 1).astype(np.int64))
    at = _places(first)
    reach = function.between(at[:, :-1], at[:, 1:])
    most = float(np.maximum(np.abs(reach.lo), np.abs(reach.hi)).max()) or 1.0
    if not np.isfinite(most):
        raise _not_finite(node, op)
    tolerance = most * _FINEST
    while (knots := _knots(function, first, tolerance, most * _SURE)) is None:
        tolerance *= 2
        if tolerance > most * _COARSEST:
            raise UnsupportedModelError(
                f"node {node.label}: {op.found.told} bends too often within the range of {op.found.source}",
                valid=f"functions that {MAX_STEPS} straight pieces follow, or of codes",
                next_command="quantize what this node reads, so that it becomes a table",
            )
    scale = Fraction(most) / FINE_TARGET
    return _measured(_pieces(knots, function.at(knots)[0] / float(scale)), knots, function, scale)


def _places(knots: np.ndarray) -> np.ndarray:
    """[pieces, _PLACES + 1]: integers from each knot to the next one."""
    share = np.arange(_PLACES + 1) / _PLACES
    return knots[:-1, None] + np.rint(np.diff(knots)[:, None] * share).astype(np.int64)


def _knots(function: _Function, knots: np.ndarray, tolerance: float, sure: float) -> np.ndarray | None:
    """More knots, each in the middle of a piece that is further than `tolerance` from its function at a
    place, or may be further than `sure` anywhere; None where they are more than a file may have.
    """
    while len(knots) <= MAX_STEPS:
        at = _places(knots)
        values, width = function.at(at)[0], np.diff(knots)[:, None]
        straight = values[:, :1] + (values[:, -1:] - values[:, :1]) * ((at - at[:, :1]) / width)
        inside = function.between(at[:, :-1], at[:, 1:])
        above = inside.hi - np.minimum(straight[:, :-1], straight[:, 1:])
        below = np.maximum(straight[:, :-1], straight[:, 1:]) - inside.lo
        near = np.abs(values - straight).max(axis=1) <= tolerance
        near &= np.maximum(above, below).max(axis=1) <= sure
        far = ~near & (width[:, 0] > 1)
        if not far.any():
            return knots
        knots = np.unique(np.concatenate([knots, (at[far, 0] + at[far, -1]) // 2]))
    return None


def _pieces(knots: np.ndarray, heights: np.ndarray) -> Pieces:
    """Straight lines between the heights at the knots, in whole numbers."""
    slopes = np.diff(heights) / np.diff(knots)
    bits = np.ceil(np.log2(np.maximum(np.abs(slopes), 2.0**-_MOST_SHIFT))).astype(np.int64)
    d = np.minimum(_SLOPE_BITS - bits, _MOST_SHIFT)
    c = np.rint(slopes * 2.0**d).astype(np.int64)
    b = np.rint(heights[:-1] * 2.0**d).astype(np.int64) - c * knots[:-1] + (1 << d >> 1)
    thresholds = knots[1:-1]
    if not len(thresholds):
        # A file has at least one.
        thresholds, c, b, d = knots[1:], c.repeat(2), b.repeat(2), d.repeat(2)
    return Pieces(thresholds, c, b, d)


def _measured(pieces: Pieces, knots: np.ndarray, function: _Function, scale: Fraction) -> _Curve:
    """The error is twice what it is at the places, for those between them, and a half for the rounding."""
    at = _places(knots)
    values, unsure = function.at(at)
    piece = np.searchsorted(pieces.thresholds, at, side="right")
    got = (at * pieces.c[piece] + pieces.b[piece]) / 2.0 ** pieces.d[piece] - 0.5
    far = np.abs(got - values / float(scale)).max() + unsure.max() / float(scale)
    slope = float(np.abs(pieces.c / 2.0**pieces.d).max())
    return _Curve(pieces, scale, 0.5 + 2 * float(far), slope * (1 + 2.0**-20))
