"""Finds the constants of every requantization and records what is proven of them."""

from __future__ import annotations

import numpy as np

from aqd_deploy.errors import RangeError
from aqd_deploy.integer.fixedpoint import RequantizeSolution, solve_requantize_channels
from aqd_deploy.integer.ranges import Interval
from aqd_deploy.integer.staircase import Staircases
from aqd_deploy.passes.contract import Lowering, Pass, PassError, PassResult, all_of, arithmetic_of
from aqd_deploy.passes.graph import Node
from aqd_deploy.passes.integer_operations import Requantize, SharedThreshold, Threshold
from aqd_deploy.passes.numerics import POWER_OF_TWO
from aqd_deploy.passes.operations import IntegerOperation, Staircase

THRESHOLD_STEPS = 15
"""Up to this many steps (4 bits), explicit thresholds replace constants that would not be exact."""


class SolveRequantize(Pass):
    """clip((η·c + B) >> d, lo, hi) for the exact staircase of round_half_even((η·α + β) / step).

        η ── Staircase ── q        η ── Requantize(c, B, d) ── q

    What is exact or proven here is the code of an integer's own value. Whether the integer itself is exact
    is said by `input_errors`: behind a stream it was rounded.

    1. Constants that are exact in every channel: `Requantize`.
    2. Not all channels have them and there are at most 15 steps: `Threshold`, exact by construction.
    3. More steps, and channels that differ in their ranges only (averages, linear interpolation, with ties at
       ½): `Steps`, one list of thresholds for all, exact by construction.
    4. Other channels: the closest constants; the number of η that deviate is counted exactly.

    A sum of two tensors of codes has its constants already (`rules/quantizer.py`).

    Power-of-two numerics has c = 1 in every channel and no thresholds: its deviations are the point.
    """

    name = "solve_requantize"

    def requires(self, state: Lowering) -> None:
        """Integer tensors only, every staircase with its interval of codes."""
        all_of(state.graph, IntegerOperation, Staircase)
        for node in state.graph.nodes:
            if isinstance(node.op, Staircase) and node.output not in state.graph.ranges:
                raise PassError(f"{node.label} has no interval")

    def ensures(self, state: Lowering) -> None:
        """Constants or thresholds for every requantization."""
        all_of(state.graph, IntegerOperation)

    def run(self, state: Lowering) -> PassResult:
        """A channel without exact constants is counted, not refused. RangeError where there are none, or the
        closest ones leave the interval that the network behind them was lowered for.
        """
        result = PassResult(self.name)
        for node in state.graph.nodes:
            if isinstance(node.op, Staircase) and not isinstance(node.op, IntegerOperation):
                with arithmetic_of(node):
                    node.op = _solved(node, node.op, state, result)
        return result


def _solved(
    node: Node, op: Staircase, state: Lowering, result: PassResult
) -> Requantize | Threshold | SharedThreshold:
    stairs, power_of_two = op.stairs, state.numerics == POWER_OF_TWO
    solution = solve_requantize_channels(stairs, power_of_two=power_of_two)
    _check_range(node, stairs, solution, state.graph.ranges[node.output])
    unproven = solution.proven.count(False)
    if unproven and not power_of_two and stairs.quantizer.steps <= THRESHOLD_STEPS:
        result.changed.append(f"{node.label}: thresholds, since {unproven} channels have no exact constants")
        return Threshold(stairs, op.dtype, op.input_errors)
    shared = _shared(op) if unproven and not power_of_two else None
    if shared is not None:
        result.changed.append(
            f"{node.label}: one list of thresholds for all channels, which differ in ranges only"
        )
        return shared
    if unproven:
        worst = max(solution.deviations)
        result.left_alone.append(
            f"{node.label}: {unproven} of {stairs.channels} channels deviate, in at most {worst} integers"
        )
    else:
        bits = max(abs(m.c).bit_length() for m in solution)
        error = op.input_errors.max()
        rounded = f", of integers that were rounded by at most {error:.3g} steps" if error else ""
        result.changed.append(
            f"{node.label}: proven in all {stairs.channels} channels, c up to {bits} bits{rounded}"
        )
    return Requantize(stairs, op.dtype, op.input_errors, solution)


def _shared(op: Staircase) -> SharedThreshold | None:
    """One staircase of which those of all channels are parts, each over its own range; None where there is
    none, as channels of several scales have.

    Within its range a channel knows a threshold; one of lo says that it is not above lo, one of hi + 1 that
    it is above hi.
    """
    stairs = op.stairs
    table, low, high = stairs.thresholds, stairs.lo[:, None], stairs.hi[:, None]
    if (stairs.sign < 0).any():
        return None
    known, none = (table > low) & (table <= high), np.iinfo(np.int64)
    least = np.where(known, table, np.where(table > high, table, none.min)).max(axis=0)
    most = np.where(known, table, np.where(table <= low, table, none.max)).min(axis=0)
    if (least > most).any():
        return None
    merged = np.where(least == none.min, np.minimum(most, int(stairs.lo.min())), least)
    merged = np.maximum.accumulate(merged)
    if (merged > most).any():
        return None
    codes = np.arange(stairs.quantizer.lo, stairs.quantizer.hi + 1)
    within = np.clip(merged, int(stairs.lo.min()), int(stairs.hi.max()) + 1)
    return SharedThreshold(within, codes.astype(op.dtype), [0] * stairs.channels, op.input_errors)


def _check_range(node: Node, stairs: Staircases, solution: RequantizeSolution, interval: Interval) -> None:
    """The interval that move_scales proved for the exact codes also holds for constants that deviate."""
    for channel in (channel for channel, proven in enumerate(solution.proven) if not proven):
        sign = int(stairs.sign[channel])
        for eta in (int(stairs.lo[channel]), int(stairs.hi[channel])):
            code = solution.constants[channel](sign * eta)
            code = min(max(code, stairs.quantizer.lo), stairs.quantizer.hi)
            if not interval.lo[channel] <= code <= interval.hi[channel]:
                raise RangeError(
                    f"the closest constants of {node.label} leave the interval of channel {channel}",
                    received=code,
                    valid=f"{interval.lo[channel]} to {interval.hi[channel]}",
                )
