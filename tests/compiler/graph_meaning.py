"""What the compiler takes an integer graph to mean, node by node in numpy: int64, so that nothing wraps."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from aqd_deploy.integer.graph import Graph, Node
from aqd_deploy.integer.operations import pool_geometry, resize_factors


def evaluate(graph: Graph, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs of `graph`, of their own types. Raises AssertionError where an integer leaves the interval
    that the reader proved.
    """
    values = {name: inputs[name].astype(np.int64) for name in graph.inputs}
    for node in graph.nodes:
        value = _value(node, graph, values)
        assert value.shape == graph.types[node.output].nchw, node.label
        proven = graph.ranges[node.output]
        assert (value.min(axis=(0, 2, 3)) >= proven.lo).all(), node.label
        assert (value.max(axis=(0, 2, 3)) <= proven.hi).all(), node.label
        values[node.output] = value
    tensors = {name: graph.tensor(name) for name in graph.outputs}
    return {name: values[tensor].astype(graph.types[tensor].dtype) for name, tensor in tensors.items()}


def _value(node: Node, graph: Graph, values: Mapping[str, np.ndarray]) -> np.ndarray:
    x = values[node.slots[0]]
    rest = [values.get(slot, graph.constants.get(slot)) for slot in node.slots[1:]]
    match node.op:
        case "ConvInteger":
            zero = int(rest[1]) if len(rest) > 1 else 0
            return _convolution(node, x - zero, rest[0].astype(np.int64))
        case "ConvOdd":
            return _convolution(node, x, 2 * rest[0].astype(np.int64) + 1)
        case "Add":
            return x + rest[0]
        case "Max":
            return np.maximum(x, 0)
        case "Cast":
            return x
        case "Concat":
            return np.concatenate([x, *rest], axis=1)
        case "PadImage":
            top, left, bottom, right = (node.attributes["pads"][i] for i in (2, 3, 6, 7))
            centred = np.pad(x - rest[0], ((0, 0), (0, 0), (top, bottom), (left, right)))
            return centred + rest[0]
        case "MultiplyShift":
            return _scaled(x, *rest)
        case "Requantize":
            return np.clip(_scaled(x, *rest), node.attributes["lo"], node.attributes["hi"])
        case "Threshold":
            return node.attributes["lo"] + (rest[0] * x >= rest[1]).sum(axis=0)
        case "SkipAdd":
            return _scaled(x, *rest[1:4]) + _scaled(rest[0], *rest[4:7])
        case "Resize":
            rows, columns = resize_factors(node, graph)
            return x.repeat(rows, axis=2).repeat(columns, axis=3)
        case _:
            return _pooled(node, x)


def _scaled(x: np.ndarray, c: np.ndarray, b: np.ndarray, d: np.ndarray) -> np.ndarray:
    return (x * c + b) >> d.astype(np.int64)


def _windows(
    x: np.ndarray, spans: tuple[int, int], strides: tuple[int, int], pads: tuple[int, ...], fill: int
) -> np.ndarray:
    """[C, rows, columns, *spans]"""
    top, left, bottom, right = pads
    padded = np.pad(x[0], ((0, 0), (top, bottom), (left, right)), constant_values=fill)
    windows = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=(1, 2))
    return windows[:, :: strides[0], :: strides[1]]


def _convolution(node: Node, x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    a = node.attributes
    rows, columns = a["dilations"]
    spans = ((weights.shape[2] - 1) * rows + 1, (weights.shape[3] - 1) * columns + 1)
    windows = _windows(x, spans, a["strides"], a["pads"], 0)[..., ::rows, ::columns]
    groups = zip(np.split(windows, a["group"]), np.split(weights, a["group"]), strict=True)
    return np.concatenate([np.einsum("chwij,ocij->ohw", part, w) for part, w in groups])[None]


def _pooled(node: Node, x: np.ndarray) -> np.ndarray:
    kernel, strides, pads = pool_geometry(node)
    return _windows(x, kernel, strides, pads, int(x.min())).max(axis=(3, 4))[None]
