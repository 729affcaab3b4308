"""What the compiler takes an integer graph to mean, node by node in numpy: int64, so that nothing wraps."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from aqd_deploy.integer.graph import Graph


def evaluate(graph: Graph, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs of `graph`, of their own types. Raises what `values_of` does."""
    values = values_of(graph, inputs)
    tensors = {name: graph.tensor(name) for name in graph.outputs}
    return {name: values[tensor].astype(graph.types[tensor].dtype) for name, tensor in tensors.items()}


def values_of(graph: Graph, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every tensor of `graph`. Raises AssertionError where an integer leaves the interval that the reader
    proved.
    """
    values = {name: inputs[name].astype(np.int64) for name in graph.inputs}
    for node in graph.nodes:
        value = node.entry.meaning(node, graph, [_input(slot, graph, values) for slot in node.slots])
        assert value.shape == graph.types[node.output].nchw, node.label
        proven = graph.ranges[node.output]
        assert (value.min(axis=(0, 2, 3)) >= proven.lo).all(), node.label
        assert (value.max(axis=(0, 2, 3)) <= proven.hi).all(), node.label
        values[node.output] = value
    return values


def _input(slot: str, graph: Graph, values: Mapping[str, np.ndarray]) -> np.ndarray:
    """A tensor or a constant as int64, 0 where the input is left out."""
    if slot in values:
        return values[slot]
    return graph.constants[slot].astype(np.int64) if slot else np.zeros((), np.int64)
