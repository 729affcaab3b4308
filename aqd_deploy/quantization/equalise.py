"""Cross-layer equalisation (Nagel et al., "Data-free quantization through weight equalization and bias
correction", ICCV 2019): neighbouring layers share their channels' ranges out evenly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import NodeProto

from aqd_deploy.passes.canonical.draft import is_standard
from aqd_deploy.quantization.network import Layer, Network
from aqd_deploy.quantization.quantizer import along

ROUNDS = 20
_CONVERGED = 1e-3
_LEAST, _MOST = 1e-3, 1e3
"""Factors of one channel: a channel of next to nothing would otherwise make its neighbours' weights huge."""

_HOMOGENEOUS = ("AveragePool", "GlobalAveragePool", "LeakyRelu", "MaxPool", "PRelu", "Relu", "Resize")


@dataclass(frozen=True)
class Pair:
    """Two layers with nothing between them but homogeneous functions that nobody else reads."""

    first: Layer
    second: Layer


def equalised(network: Network) -> tuple[Network, int]:
    """The same function in other weights, and how many pairs of layers were evened out.

    s = √(r₁ / r₂) with r the largest absolute weight of a channel, in the first layer's outputs and the
    second one's inputs: W₁ and b₁ are divided by s, W₂ is multiplied by it. Pairs that share a layer are gone
    through again until they agree. Left out are weights that several layers share, and grouped convolutions
    that are not depthwise.
    """
    pairs = _pairs(network)
    arrays = {
        name: network.array(name).astype(np.float64)
        for pair in pairs
        for name in (pair.first.weight, pair.first.bias, pair.second.weight)
        if name
    }
    for _ in range(ROUNDS):
        farthest = 0.0
        for pair in pairs:
            factors = _factors(arrays, pair)
            farthest = max(farthest, float(np.abs(np.log(factors)).max()))
            _apply(arrays, pair, factors)
        if farthest < _CONVERGED:
            break
    changed = {name: array.astype(np.float32) for name, array in arrays.items()}
    return (network.with_arrays(changed) if pairs else network), len(pairs)


def _factors(arrays: dict[str, np.ndarray], pair: Pair) -> np.ndarray:
    first = sizes_along(arrays[pair.first.weight], pair.first.axis)
    second = sizes_along(arrays[pair.second.weight], input_axis(pair.second))
    both = (first > 0) & (second > 0)
    ratio = np.where(both, first, 1.0) / np.where(both, second, 1.0)
    return np.clip(np.sqrt(ratio), _LEAST, _MOST)


def _apply(arrays: dict[str, np.ndarray], pair: Pair, factors: np.ndarray) -> None:
    weight, behind = arrays[pair.first.weight], arrays[pair.second.weight]
    arrays[pair.first.weight] = weight / along(factors, weight.ndim, pair.first.axis)
    arrays[pair.second.weight] = behind * along(factors, behind.ndim, input_axis(pair.second))
    if pair.first.bias is not None:
        arrays[pair.first.bias] = arrays[pair.first.bias] / factors


def sizes_along(weights: np.ndarray, axis: int) -> np.ndarray:
    """[C]: the largest absolute weight at each place of an axis."""
    return np.abs(weights).max(axis=tuple(i for i in range(weights.ndim) if i != axis))


def input_axis(layer: Layer) -> int:
    """The axis of the input channels in a layer's weights; of a depthwise one they are the outputs'."""
    return layer.axis if layer.group > 1 else 1 - layer.axis


def _pairs(network: Network) -> list[Pair]:
    readers: dict[str, list[NodeProto]] = {}
    for node in network.model.graph.node:
        for name in dict.fromkeys(filter(None, node.input)):
            readers.setdefault(name, []).append(node)
    outputs = {value.name for value in network.model.graph.output}
    layers = {layer.output: layer for layer in network.layers}
    found = []
    for layer in network.layers:
        name = layer.output
        while name not in outputs and len(readers.get(name, [])) == 1:
            node = readers[name][0]
            behind = layers.get(node.output[0])
            if behind is not None:
                pair = Pair(layer, behind)
                found += [pair] if _fits(network, pair, readers) else []
                break
            if not is_homogeneous(network, node):
                break
            name = node.output[0]
    return found


def is_homogeneous(network: Network, node: NodeProto) -> bool:
    """Whether f(s·x) = s·f(x) for s > 0, each channel by itself. A PRelu's slopes may be one a channel."""
    return is_standard(node, *_HOMOGENEOUS) and (
        node.op_type != "PRelu" or network.is_constant(node.input[1])
    )


def _fits(network: Network, pair: Pair, readers: dict[str, list[NodeProto]]) -> bool:
    first, second = pair.first, pair.second
    if first.op_type not in ("Conv", "ConvTranspose") or second.op_type != "Conv":
        return False
    constants = [first.weight, second.weight, *([first.bias] if first.bias else [])]
    channels = network.array(first.weight).shape[first.axis]
    whole = first.group == 1 or first.op_type == "Conv"
    depthwise = second.group in (1, channels) and (
        second.group == 1 or network.array(second.weight).shape[0] == channels
    )
    return whole and depthwise and all(len(readers[name]) == 1 for name in constants)
