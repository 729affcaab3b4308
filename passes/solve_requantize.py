"""Finds the constants of every requantization and records what is proven of them."""

from __future__ import annotations

from aqd_deploy.errors import RangeError
from aqd_deploy.integer.fixedpoint import solve_requantize_channels
from aqd_deploy.passes.graph import Graph, Node, Pass, PassResult, arithmetic_of
from aqd_deploy.passes.numerics import EXACT, POWER_OF_TWO

THRESHOLD_STEPS = 15
"""Up to this many steps (4 bits), explicit thresholds replace constants that would not be exact."""


class SolveRequantize(Pass):
    """clip((η·c + B) >> d, lo, hi) for the exact staircase of round_half_even((η·α + β) / step).

    What is exact or proven here is the level of an integer's own value. Whether the integer itself is exact
    is said by `input_errors`: behind a stream it was rounded.

    1. Constants that are exact in every channel: `Requantize`.
    2. Not all channels have them and there are at most 15 steps: `Threshold`, exact by construction.
    3. More steps: the closest constants; the number of η that deviate is counted exactly.

    Power-of-two numerics has c = 1 in every channel and no thresholds: its deviations are the point.
    """

    name = "solve_requantize"
    requires = "move_scales"
    ensures = "every Requantize has constants or thresholds"

    def __init__(self, numerics: str = EXACT) -> None:
        self.numerics = numerics

    def run(self, graph: Graph) -> PassResult:
        """A channel without exact constants is counted, not refused. RangeError where there are none, or the
        closest ones leave the interval that the network behind them was lowered for.
        """
        result = PassResult(self.name)
        for node in graph.nodes:
            if node.op == "Requantize":
                with arithmetic_of(node):
                    self._solve(graph, node, result)
        return result

    def _solve(self, graph: Graph, node: Node, result: PassResult) -> None:
        stairs = node.attributes["stairs"]
        power_of_two = self.numerics == POWER_OF_TWO
        solution = solve_requantize_channels(stairs, power_of_two=power_of_two)
        unproven = solution.proven.count(False)
        node.attributes["solution"] = solution
        self._check_range(graph, node)
        if unproven and not power_of_two and stairs.quantizer.steps <= THRESHOLD_STEPS:
            node.op = "Threshold"
            result.changed.append(
                f"{node.label}: thresholds, since {unproven} channels have no exact constants"
            )
        elif unproven:
            worst = max(solution.deviations)
            result.left_alone.append(
                f"{node.label}: {unproven} of {stairs.channels} channels deviate, in at most {worst} integers"
            )
        else:
            bits = max(abs(m.c).bit_length() for m in solution)
            error = node.attributes["input_errors"].max()
            rounded = f", of integers that were rounded by at most {error:.3g} steps" if error else ""
            result.changed.append(
                f"{node.label}: proven in all {stairs.channels} channels, c up to {bits} bits{rounded}"
            )

    def _check_range(self, graph: Graph, node: Node) -> None:
        """The interval that move_scales proved for the exact levels also holds for constants that deviate."""
        stairs, interval = node.attributes["stairs"], graph.ranges[node.output]
        solution = node.attributes["solution"]
        for channel in (channel for channel, proven in enumerate(solution.proven) if not proven):
            constants = solution.constants[channel]
            sign = int(stairs.sign[channel])
            for eta in (int(stairs.lo[channel]), int(stairs.hi[channel])):
                level = min(max(constants(sign * eta), stairs.quantizer.lo), stairs.quantizer.hi)
                if not interval.lo[channel] <= level <= interval.hi[channel]:
                    raise RangeError(
                        f"the closest constants of {node.label} leave the interval of channel {channel}",
                        received=level,
                        valid=f"{interval.lo[channel]} to {interval.hi[channel]}",
                    )
