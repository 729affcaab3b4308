"""Quantizers: of integers with α and β an exact staircase, of the sum of two tensors of codes one of both."""

from __future__ import annotations

from aqd_deploy.integer.ranges import Interval
from aqd_deploy.integer.staircase import staircases
from aqd_deploy.passes.graph import Node
from aqd_deploy.passes.numerics import EXACT
from aqd_deploy.passes.operations import Quantize, Staircase
from aqd_deploy.passes.values import Values


def quantize(values: Values, node: Node, op: Quantize) -> None:
    """The integers go on to it with α and β, which Requantize takes unrounded into its constants."""
    value = values.value(node.inputs[0], node)
    quantizer = op.quantizer
    interval = values.graph.ranges[value.tensor]
    stairs = staircases(value.forms, quantizer, interval.lo, interval.hi)
    tensor = values.int32(value.tensor)
    if values.numerics == EXACT:
        low, high = stairs.codes()
        margin = 0 if quantizer.steps <= 15 else 1
        codes = Interval(low - margin, high + margin).clipped(quantizer.lo, quantizer.hi)
    else:
        codes = Interval.uniform(stairs.channels, quantizer.lo, quantizer.hi)
    staircase = Staircase(stairs, op.dtype, value.error * stairs.slope)
    values.emit(Node(staircase, [tensor], node.output, node.source), codes, op.dtype)
