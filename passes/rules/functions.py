"""Quantized functions of streams: the integers at which their code changes, one list for all channels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.integer.fixedpoint import MultiplyShift as Constants
from aqd_deploy.integer.fixedpoint import ScaleSolution, solve_scale
from aqd_deploy.integer.operations.tables import MAX_STEPS
from aqd_deploy.integer.ranges import Interval
from aqd_deploy.integer.rational import ChannelForm
from aqd_deploy.integer.staircase import Quantizer, Staircases
from aqd_deploy.passes.enclosures import Enclosure, point
from aqd_deploy.passes.graph import Node
from aqd_deploy.passes.integer_operations import MultiplyShift, SharedThreshold, Threshold
from aqd_deploy.passes.rules.two_slopes import requantize_max, slope_of, two_slopes
from aqd_deploy.passes.slices import QuantizedFunction, enclosing, exactly
from aqd_deploy.passes.solve_requantize import THRESHOLD_STEPS
from aqd_deploy.passes.streams import STREAM_LIMIT
from aqd_deploy.passes.values import Scaled, Values

_FIRST_PIECES = 1024
"""Into so many pieces the search cuts a range before it looks at any."""

_LEVELS = 32
"""Halvings of a piece: changes of the code lie in brackets of 2^-42 of the range."""

_MOST_PIECES = 1 << 16
"""A code that can't be told in more pieces than that is a tie over a whole stretch."""

_ROUNDING = 2.0**-44
"""More than what float64 leaves of the place of a bracket, as a part of the largest value."""


@dataclass(frozen=True)
class _Function:
    """f exactly and for intervals, and the quantizer of its values."""

    exact: Callable[[Fraction], Fraction]
    bounds: Callable[[Enclosure], Enclosure]
    quantizer: Quantizer

    def code(self, x: Fraction) -> int:
        """The code of f(x); ArithmeticError where it has no finite value."""
        return self.quantizer.code(self.exact(x))

    def codes(self, first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The lowest and the highest code that f can have within each interval."""
        q = self.quantizer
        y = self.bounds(Enclosure(first, last)) / point(q.step)
        ends = (np.clip(each, -(2.0**40), 2.0**40) for each in (y.lo, y.hi))
        low, high = (np.rint(each).astype(np.int64) + q.zero_point for each in ends)
        return np.clip(low, q.lo, q.hi), np.clip(high, q.lo, q.hi)


@dataclass(frozen=True)
class _Changes:
    """Where the code of a real number changes: from codes[k] to codes[k + 1] within [first[k], last[k]]."""

    codes: np.ndarray
    first: np.ndarray
    last: np.ndarray

    @property
    def rising(self) -> bool:
        """Whether no code is below the one in front of it."""
        return bool((self.codes[1:] > self.codes[:-1]).all())


def quantized_function(values: Values, node: Node, op: QuantizedFunction) -> None:
    """Two multiply-shifts for a leaky ReLU (`_by_two_slopes`), thresholds for other functions.

    Thresholds of the integers where all channels have one scale: exact. So are a channel's own thresholds,
    of a code that only rises, in at most `THRESHOLD_STEPS` steps. Other tensors are brought to one scale
    first, 2^-29 of the largest value, and the integers that get another code by that are counted.
    """
    function = _Function(exactly(values.graph, op.found), enclosing(values.graph, op.found), op.quantizer)
    value = values.value(node.inputs[0], node)
    inside = values.graph.ranges[value.tensor]
    forms = [form.rationalised() for form in value.forms]
    largest = largest_of(forms, inside)
    alike = len(set(forms)) == 1 and forms[0].a > 0
    errors = _input_errors(function, value, forms, largest)
    if _by_two_slopes(values, node, op, value, errors, alike):
        return
    changes = _search(node, op, function, largest)
    if not alike and changes.rising and op.quantizer.steps <= THRESHOLD_STEPS:
        stairs = _stairs(function, changes, forms, inside)
        own = Threshold(stairs, op.dtype, errors)
        source, taken = values.int32(value.tensor), Interval(*stairs.codes())
        values.emit(Node(own, [source], node.output, node.source), taken, op.dtype)
        told = f"{op.found.told} by {op.quantizer.steps} thresholds a channel, exact"
        values.result.changed.append(f"{node.label}: {told}")
        return
    if alike:
        tensor, reached = values.int32(value.tensor), inside
        thresholds, wrong = _thresholds(function, changes, forms[0], *reached.bounds), [0] * len(forms)
    else:
        axis = ChannelForm(largest / STREAM_LIMIT)
        solutions, reached = shared_axis(forms, inside, axis)
        tensor = brought(values, node, value, solutions, reached)
        thresholds = _thresholds(function, changes, axis, *reached.bounds)
        wrong = [
            _deviations(function, changes, thresholds, (form, solution.constants, low, high))
            for form, solution, low, high in zip(
                forms, solutions, inside.lo.tolist(), inside.hi.tolist(), strict=True
            )
        ]
    codes = changes.codes
    if not len(thresholds):
        # The dialect asks for a threshold: one that nothing reaches, in front of the same code.
        thresholds, codes = np.array([reached.bounds[1] + 1]), np.repeat(codes, 2)
    new = SharedThreshold(thresholds, codes.astype(op.dtype), wrong, errors)
    values.emit(Node(new, [tensor], node.output, node.source), _code_range(new, reached), op.dtype)
    _tell(values, node, op, f"{len(new.thresholds)} thresholds", new.deviations)


def _by_two_slopes(
    values: Values, node: Node, op: QuantizedFunction, value: Scaled, errors: np.ndarray, alike: bool
) -> bool:
    """A leaky ReLU of more than `THRESHOLD_STEPS` steps as the larger of two requantizations, unless one list
    of thresholds is exact for all channels and these are not. Fewer steps have exact thresholds.
    """
    slope, steps = slope_of(values.graph, op.found), op.quantizer.steps
    if slope is None or steps <= THRESHOLD_STEPS:
        return False
    inside = values.graph.ranges[value.tensor]
    new, codes = requantize_max(*two_slopes(value.forms, slope, op.quantizer, inside), op.dtype, errors)
    if alike and any(new.deviations):
        return False
    values.emit(Node(new, [values.int32(value.tensor)], node.output, node.source), codes, op.dtype)
    _tell(values, node, op, "two multiply-shifts", new.deviations)
    return True


def _stairs(function: _Function, changes: _Changes, forms: list[ChannelForm], inside: Interval) -> Staircases:
    """Of every channel the integers from which on its code is at least each of the quantizer's."""
    quantizer = function.quantizer
    wanted = np.arange(quantizer.lo + 1, quantizer.hi + 1, dtype=np.int64)
    behind = np.searchsorted(changes.codes[1:], wanted)
    sign = np.array([-1 if form.a < 0 else 1 for form in forms], dtype=np.int64)
    low, high = np.where(sign > 0, inside.lo, -inside.hi), np.where(sign > 0, inside.hi, -inside.lo)
    rows = []
    for form, first, last in zip(forms, low.tolist(), high.tolist(), strict=True):
        if form.a == 0:
            reached = np.where(wanted <= function.code(form.b0), first, last + 1)
        else:
            risen = ChannelForm(abs(form.a), form.b0)
            found = np.append(_thresholds(function, changes, risen, first, last), last + 1)
            reached = np.where(wanted <= changes.codes[0], first, found[behind])
        rows.append(reached)
    slope = np.array([float(abs(form.a) / quantizer.step) for form in forms])
    return Staircases(quantizer, sign, low, high, np.stack(rows), slope)


def _tell(values: Values, node: Node, op: QuantizedFunction, means: str, deviations: list[int]) -> None:
    wrong = [count for count in deviations if count]
    told = f"{node.label}: {op.found.told} by {means}"
    if wrong:
        channels = f"{len(wrong)} of {len(deviations)} channels deviate"
        values.result.left_alone.append(f"{told}, {channels}, in at most {max(wrong)} integers")
    else:
        values.result.changed.append(f"{told}, proven in all {len(deviations)} channels")


def largest_of(forms: list[ChannelForm], inside: Interval) -> Fraction:
    """The largest absolute value of a channel, 1 where all are 0."""
    found = Fraction(0)
    for form, low, high in zip(forms, inside.lo.tolist(), inside.hi.tolist(), strict=True):
        found = max(found, abs(form.a * low + form.b0), abs(form.a * high + form.b0))
    return found or Fraction(1)


def _search(node: Node, op: QuantizedFunction, function: _Function, largest: Fraction) -> _Changes:
    """All changes within ±largest: pieces whose code the bounds of f don't tell are halved."""
    # A little further, so that no value lies in the outermost pieces.
    reach = float(largest) * (1 + 2.0**-8)
    edges = np.linspace(-reach, reach, _FIRST_PIECES + 1)
    first, last = edges[:-1], edges[1:]
    told: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for _ in range(_LEVELS):
        low, high = function.codes(first, last)
        same = low == high
        told.append((first[same], last[same], low[same]))
        first, last = first[~same], last[~same]
        middle = (first + last) / 2
        first, last = np.concatenate([first, middle]), np.concatenate([middle, last])
        if len(first) > _MOST_PIECES:
            break
    starts, ends, codes = (np.concatenate(each) for each in zip(*told, strict=True))
    order = np.argsort(starts)
    starts, ends, codes = starts[order], ends[order], codes[order]
    changed = np.flatnonzero((codes[1:] != codes[:-1]) | (ends[:-1] != starts[1:]))
    if len(first) > _MOST_PIECES or not len(codes) or len(changed) > MAX_STEPS:
        raise UnsupportedModelError(
            f"node {node.label}: the codes of {op.found.told} can't be told from thresholds",
            received=f"{len(changed)} changes, {len(first)} undecided pieces",
            valid=f"up to {MAX_STEPS} changes, finite values, no stretch that lies between two codes",
            next_command="quantize what is in front of this function",
        )
    kept = np.concatenate([[True], np.isin(np.arange(len(codes) - 1), changed)])
    return _Changes(codes[kept], ends[:-1][kept[1:]], starts[kept][1:])


def _thresholds(function: _Function, changes: _Changes, form: ChannelForm, low: int, high: int) -> np.ndarray:
    """The smallest integer η of [low, high + 1] from which on α·η + β has the code behind each change, α > 0.

    Where a bracket holds an integer, the exact code at it decides; ArithmeticError where that is neither the
    code in front of the bracket nor the one behind it.
    """
    a, b = float(form.a), float(form.b0)
    slack = _ROUNDING * (max(abs(low), abs(high)) * a + abs(b))
    before = np.ceil((changes.first - slack - b) / a)
    behind = np.ceil((changes.last + slack - b) / a)
    found = np.clip(behind, low, high + 1).astype(np.int64)
    start = np.clip(before, low, high + 1).astype(np.int64)
    for k in np.flatnonzero(start < found).tolist():
        for eta in range(int(start[k]), int(found[k])):
            code = function.code(form.a * eta + form.b0)
            if code not in changes.codes[k : k + 2]:
                raise ArithmeticError(f"its code touches {code} at a single integer")
            if code == changes.codes[k + 1]:
                found[k] = eta
                break
    return np.maximum.accumulate(found)


def shared_axis(
    forms: list[ChannelForm], inside: Interval, axis: ChannelForm
) -> tuple[list[ScaleSolution], Interval]:
    """Multiply-shifts of every channel to the scale of `axis`, and what they make of the interval."""
    bounds = zip(forms, inside.lo.tolist(), inside.hi.tolist(), strict=True)
    solutions = [solve_scale(form.a / axis.a, form.b0 / axis.a, low, high) for form, low, high in bounds]
    pairs = zip(solutions, inside.lo.tolist(), inside.hi.tolist(), strict=True)
    ends = np.array([sorted((s.constants(low), s.constants(high))) for s, low, high in pairs], np.int64)
    return solutions, Interval(ends[:, 0].copy(), ends[:, 1].copy())


def brought(
    values: Values, node: Node, value: Scaled, solutions: list[ScaleSolution], reached: Interval
) -> str:
    """The stream at the shared scale."""
    tensor = values.int32(value.tensor)
    output = values.graph.fresh(f"{node.inputs[0]}_axis")
    op = MultiplyShift([s.constants for s in solutions], np.array([s.error for s in solutions]))
    values.emit(Node(op, [tensor], output, node.source), reached.require_int32(node.label), "int32")
    return output


def _deviations(
    function: _Function,
    changes: _Changes,
    thresholds: np.ndarray,
    channel: tuple[ChannelForm, Constants, int, int],
) -> int:
    """How many η of the channel get another code by the shared axis, one that is two codes off twice."""
    form, constants, low, high = channel
    if form.a == 0:
        got = changes.codes[np.searchsorted(thresholds, constants(low), side="right")]
        return abs(int(got) - function.code(form.b0)) * (high - low + 1)
    if form.a < 0:
        # Over −η, which rises with the value.
        form, constants = ChannelForm(-form.a, form.b0), Constants(-constants.c, constants.b, constants.d)
        low, high = -high, -low
    exact = _thresholds(function, changes, form, low, high)
    if constants.c <= 0:
        got = np.where(thresholds <= constants.b >> constants.d, low, high + 1)
    else:
        edges = [-((constants.b - (t << constants.d)) // constants.c) for t in thresholds.tolist()]
        got = np.array([min(max(edge, low), high + 1) for edge in edges], dtype=np.int64)
    jumps = np.abs(np.diff(changes.codes))
    return int((np.abs(exact - got) * jumps).sum())


def _input_errors(
    function: _Function, value: Scaled, forms: list[ChannelForm], largest: Fraction
) -> np.ndarray:
    """A bound in steps of what the rounding of the integers makes of the codes: f moves by no more than the
    difference within two neighbouring pieces that are longer than that rounding.
    """
    errors = np.array([float(abs(form.a)) for form in forms]) * value.error
    if not errors.any():
        return errors
    pieces = int(min(1 << 14, max(1.0, float(largest) / errors.max())))
    edges = np.linspace(-float(largest), float(largest), pieces + 1)
    bounds = function.bounds(Enclosure(edges[:-1], edges[1:]))
    low, high = np.minimum(bounds.lo, np.roll(bounds.lo, 1)), np.maximum(bounds.hi, np.roll(bounds.hi, 1))
    moved = float((high - low)[1:].max(initial=float((bounds.hi - bounds.lo).max())))
    return np.where(errors > 0, moved / float(function.quantizer.step), 0.0)


def _code_range(op: SharedThreshold, reached: Interval) -> Interval:
    """The lowest and highest code of each channel."""
    codes = op.codes.astype(np.int64)
    first, last = (np.searchsorted(op.thresholds, end, side="right") for end in (reached.lo, reached.hi))
    found = [codes[low : high + 1] for low, high in zip(first, last, strict=True)]
    return Interval(np.array([f.min() for f in found]), np.array([f.max() for f in found]))
