"""Constants of a node as exact numbers; what isn't a finite constant of the right size is refused here."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.integer.rational import exact_list
from aqd_deploy.passes.graph import Graph, Node
from aqd_deploy.passes.operations import Relu


def constant(graph: Graph, node: Node, name: str, what: str) -> np.ndarray:
    """The constant that `node` reads as its `what`; UnsupportedModelError where it is computed."""
    if name not in graph.constants:
        raise UnsupportedModelError(
            f"node {node.label}: {what} {name} is computed", valid=f"a constant {what}"
        )
    return graph.constants[name]


def finite_reals(graph: Graph, node: Node, name: str, what: str, count: int) -> list[Fraction]:
    """The `count` finite numbers of a constant, exact, also of one behind a DequantizeLinear;
    UnsupportedModelError for anything else.
    """
    quantized = graph.quantized.get(name)
    array = constant(graph, node, name, what) if quantized is None else quantized.values
    if array.size != count:
        raise UnsupportedModelError(
            f"node {node.label}: {what} {name} doesn't fit",
            received=f"{array.size} numbers",
            valid=str(count),
        )
    if quantized is not None:
        return quantized.reals()
    values = np.asarray(array, dtype=np.float64)
    if not np.isfinite(values).all():
        raise UnsupportedModelError(
            f"node {node.label}: {what} {name} holds a number that isn't finite",
            received=float(values[~np.isfinite(values)].ravel()[0]),
            valid="finite numbers",
            next_command="retrain or repair this layer, then export it again",
        )
    return exact_list(values)


def clip_bounds(graph: Graph, node: Node) -> tuple[Fraction | None, Fraction | None]:
    """(low, high) of a Relu or Clip node, low ≤ high, None where it has no bound.

    A Clip whose bounds cross gives its upper one everywhere, as onnxruntime computes it.
    """
    if isinstance(node.op, Relu):
        return Fraction(0), None
    low = _bound(graph, node, 1, -np.inf)
    high = _bound(graph, node, 2, np.inf)
    return (high if low is not None and high is not None and low > high else low), high


def _bound(graph: Graph, node: Node, index: int, absent: float) -> Fraction | None:
    name = node.inputs[index] if len(node.inputs) > index else ""
    if not name:
        return None
    array = graph.constants.get(name)
    if array is not None and array.size == 1 and float(array.ravel()[0]) == absent:
        return None
    return finite_reals(graph, node, name, "Clip bound", 1)[0]
