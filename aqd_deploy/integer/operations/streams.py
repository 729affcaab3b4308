"""Streams, the int32 tensors: Add of a bias or another stream, Max and Min, Cast of codes to one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np

from aqd_deploy.integer import attributes as a
from aqd_deploy.integer.arithmetic import Arithmetic
from aqd_deploy.integer.graph import Graph, Node
from aqd_deploy.integer.operations.entry import (
    PER_CHANNEL,
    SAME,
    TO,
    Operand,
    Operation,
    elements,
    per_channel,
    source_interval,
)
from aqd_deploy.integer.ranges import Interval
from aqd_deploy.integer.types import CODES


class Add(Operation):
    """A bias per channel (Eq. 6), or another stream."""

    name = "Add"
    data = (1, 2)
    operands = (Operand("bias", "int32", PER_CHANNEL),)
    returns = SAME

    def interval(self, node: Node, graph: Graph) -> Interval:
        source = source_interval(node, graph)
        if graph.has_operand(node, "bias"):
            return source.shifted(per_channel(node, graph, "bias")).require_int32(node.name)
        other = graph.ranges[node.slots[1]]
        return Interval(source.lo + other.lo, source.hi + other.hi).require_int32(node.name)

    def arithmetic(self, node: Node, graph: Graph) -> Arithmetic:
        return Arithmetic(sums=elements(node, graph))

    def meaning(self, node: Node, graph: Graph, values: Sequence[np.ndarray]) -> np.ndarray:
        return values[0] + values[1]


class _Limit(Operation):
    """A stream clipped on one side, per channel or everywhere the same."""

    returns = SAME
    limit: Callable[..., np.ndarray]

    def interval(self, node: Node, graph: Graph) -> Interval:
        source, bound = source_interval(node, graph), per_channel(node, graph, self._operand)
        return Interval(self.limit(source.lo, bound), self.limit(source.hi, bound))

    def arithmetic(self, node: Node, graph: Graph) -> Arithmetic:
        return Arithmetic(sums=elements(node, graph))

    def meaning(self, node: Node, graph: Graph, values: Sequence[np.ndarray]) -> np.ndarray:
        return self.limit(*values)

    @property
    def _operand(self) -> str:
        return next(iter(self.slots))


class Max(_Limit):
    """From below; with 0 a ReLU."""

    name = "Max"
    operands = (Operand("floor", "int32", PER_CHANNEL, or_scalar=True),)
    limit = staticmethod(np.maximum)


class Min(_Limit):
    """From above."""

    name = "Min"
    operands = (Operand("top", "int32", PER_CHANNEL, or_scalar=True),)
    limit = staticmethod(np.minimum)


class Cast(Operation):
    """A quantized tensor that joins a skip-add or a concat."""

    name = "Cast"
    accepts = CODES
    attributes: ClassVar = {"to": a.STREAM_TYPE}
    returns = TO

    def interval(self, node: Node, graph: Graph) -> Interval:
        return source_interval(node, graph)

    def meaning(self, node: Node, graph: Graph, values: Sequence[np.ndarray]) -> np.ndarray:
        return values[0]
