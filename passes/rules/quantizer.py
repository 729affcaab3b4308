"""Quantizers: of integers with α and β an exact staircase, of the sum of two tensors of codes one of both."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from aqd_deploy.integer.fixedpoint import MultiplyShift, RequantizeSolution
from aqd_deploy.integer.ranges import Interval
from aqd_deploy.integer.rational import ChannelForm
from aqd_deploy.integer.staircase import Staircases, staircases
from aqd_deploy.integer.sums import Codes, SumSolution, solve_sum
from aqd_deploy.passes.graph import Node
from aqd_deploy.passes.integer_operations import Requantize, SkipAdd
from aqd_deploy.passes.numerics import EXACT
from aqd_deploy.passes.operations import Quantize, Staircase
from aqd_deploy.passes.streams import StreamConstants
from aqd_deploy.passes.values import Sum, Values


def quantize(values: Values, node: Node, op: Quantize) -> None:
    """The integers go on to it with α and β, which Requantize takes unrounded into its constants."""
    pending, factors = values.sums.get(node.inputs[0]), [factor for factor, _ in op.channels]
    if pending is not None and factors:
        pending = Sum(pending.node, (pending.terms[0].scaled(factors), pending.terms[1].scaled(factors)))
    if pending is not None:
        solutions = _solutions(values, pending, op)
        if solutions is not None:
            _quantize_sum(values, node, op, pending, solutions)
            return
    value = values.value(node.inputs[0], node)
    value = value.scaled(factors) if factors else value
    quantizer = op.quantizer
    interval = values.graph.ranges[value.tensor]
    zeros = [zero for _, zero in op.variants()] if op.channels else None
    stairs = staircases(value.forms, quantizer, interval.lo, interval.hi, zeros)
    tensor = values.int32(value.tensor)
    if values.numerics == EXACT:
        low, high = stairs.codes()
        margin = 0 if quantizer.steps <= 15 else 1
        codes = Interval(low - margin, high + margin).clipped(quantizer.lo, quantizer.hi)
    else:
        codes = Interval.uniform(stairs.channels, quantizer.lo, quantizer.hi)
    staircase = Staircase(stairs, op.dtype, value.error * stairs.slope)
    values.emit(Node(staircase, [tensor], node.output, node.source), codes, op.dtype)


_Key = tuple[ChannelForm, ChannelForm, int, int, int, int, int]


def _solutions(values: Values, pending: Sum, op: Quantize) -> list[SumSolution] | None:
    """Constants of every channel; equal channels are solved once. None where a channel has none."""
    first, second = pending.terms
    a, b = (values.graph.ranges[term.tensor] for term in pending.terms)
    zeros = [zero for _, zero in op.variants()] * (1 if op.channels else len(first.forms))
    bounds = (a.lo.tolist(), a.hi.tolist(), b.lo.tolist(), b.hi.tolist(), zeros)
    solved: dict[_Key, SumSolution] = {}
    found = []
    for key in zip(first.forms, second.forms, *bounds, strict=True):
        if key not in solved:
            solution = _solve(key, op)
            if solution is None:
                return None
            solved[key] = solution
        found.append(solved[key])
    return found


def _solve(key: _Key, op: Quantize) -> SumSolution | None:
    first, second, lo_a, hi_a, lo_b, hi_b, zero_point = key
    step = op.quantizer.step
    x, y = first.rationalised(), second.rationalised()
    return solve_sum(
        Codes(x.a / step, lo_a, hi_a),
        Codes(y.a / step, lo_b, hi_b),
        (x.b0 + y.b0) / step,
        replace(op.quantizer, zero_point=zero_point),
    )


def _quantize_sum(
    values: Values, node: Node, op: Quantize, pending: Sum, solutions: list[SumSolution]
) -> None:
    """Cast(a)·n1 + Cast(b)·n2 + B as a SkipAdd without shifts, and its code by one shift."""
    none = np.zeros(len(solutions))
    sides = [
        _side(values, op, term.tensor, solutions, constants)
        for term, constants in zip(
            pending.terms,
            (
                [MultiplyShift(s.left, s.offset, 0) for s in solutions],
                [MultiplyShift(s.right, 0, 0) for s in solutions],
            ),
            strict=True,
        )
    ]
    tensors = [values.int32(term.tensor) for term in pending.terms]
    stream = values.graph.fresh(f"{node.inputs[0]}_int")
    values.graph.shapes[stream] = values.graph.shapes[node.inputs[0]]
    total = _interval([s.sums for s in solutions])
    skip_add = SkipAdd(sides[0], sides[1], none, none)
    values.emit(Node(skip_add, tensors, stream, pending.node.source), total, "int32")
    requantize = Requantize(
        _stairs(op, solutions, total),
        op.dtype,
        none,
        RequantizeSolution(
            [MultiplyShift(1, 0, s.shift) for s in solutions],
            [s.deviations == 0 for s in solutions],
            [s.deviations for s in solutions],
        ),
    )
    codes = _interval([s.codes for s in solutions])
    values.emit(Node(requantize, [stream], node.output, node.source), codes, op.dtype)
    _tell(values, node, solutions)


def _interval(ends: list[tuple[int, int]]) -> Interval:
    array = np.array(ends, dtype=np.int64)
    return Interval(array[:, 0].copy(), array[:, 1].copy())


def _side(
    values: Values, op: Quantize, tensor: str, solutions: list[SumSolution], constants: list[MultiplyShift]
) -> StreamConstants:
    """One operand of the SkipAdd; nothing is rounded."""
    inside = values.graph.ranges[tensor]
    bounds = zip(constants, inside.lo.tolist(), inside.hi.tolist(), strict=True)
    ends = [(min(m(low), m(high)), max(m(low), m(high))) for m, low, high in bounds]
    forms = [ChannelForm(op.quantizer.step / (1 << s.shift)) for s in solutions]
    none = np.zeros(len(constants))
    return StreamConstants(constants, forms, _interval(ends), none, none)


def _stairs(op: Quantize, solutions: list[SumSolution], total: Interval) -> Staircases:
    """The staircase of the sums: code k from k·2^d on."""
    shifts = np.array([s.shift for s in solutions], dtype=np.int64)
    codes = np.arange(op.quantizer.lo + 1, op.quantizer.hi + 1, dtype=np.int64)
    thresholds = np.clip(codes[None, :] << shifts[:, None], total.lo[:, None], total.hi[:, None] + 1)
    quantizer = replace(op.quantizer, zero_point=0)
    return Staircases(quantizer, np.ones_like(shifts), total.lo, total.hi, thresholds, 0.5**shifts)


def _tell(values: Values, node: Node, solutions: list[SumSolution]) -> None:
    wrong = [s.deviations for s in solutions if s.deviations]
    if wrong:
        values.result.left_alone.append(
            f"{node.label}: a sum of two tensors of codes; {len(wrong)} of {len(solutions)} channels "
            f"deviate, in at most {max(wrong)} pairs of codes"
        )
    else:
        bits = max(s.shift for s in solutions)
        values.result.changed.append(
            f"{node.label}: a sum of two tensors of codes, proven for all pairs of codes, shifts up to {bits}"
        )
