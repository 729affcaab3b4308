"""The layers of Darknet as ONNX, one function a type: each gives what its section makes of the last map.

Sources: Darknet's src/parser.c (keys and their defaults) and the layers' own files.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from aqd_deploy.errors import ModelFileError, UnsupportedModelError
from aqd_deploy.frontends.darknet.cfg import Section
from aqd_deploy.frontends.darknet.network import FeatureMap, Head, Network
from aqd_deploy.frontends.darknet.reorg import reorg

_EPSILON = 1e-6
_LARGEST_WINDOW = 64


def convolutional(section: Section, network: Network) -> FeatureMap:
    """Convolution, batch norm, activation.

    Darknet's batch norm is γ·(x − m)/(√v + ε) + β with ε = 1e-6 outside the root. ONNX's has it within; so
    its variance is (√v + ε)², and its own ε is 0.
    """
    section.check_keys(
        ("filters", "size", "stride", "pad", "padding", "groups", "batch_normalize", "activation")
    )
    x, graph, weights, name = network.last, network.graph, network.weights, network.name(section)
    filters, groups = section.whole("filters", 1, 1), section.whole("groups", 1, 1)
    size, stride = section.whole("size", 1, 1, _LARGEST_WINDOW), section.whole("stride", 1, 1)
    pad = size // 2 if section.whole("pad", 0) else section.whole("padding", 0, 0, _LARGEST_WINDOW)
    if x.channels % groups or filters % groups:
        raise ModelFileError(
            f"{section.place} has groups that do not divide its channels", received=groups,
            valid=f"a divisor of {x.channels} and {filters}",
        )  # fmt: skip
    what = f"weights of {section.place}"
    bias = weights.take(what, filters)
    normalized = bool(section.whole("batch_normalize", 0))
    statistics = [weights.take(what, filters) for _ in range(3)] if normalized else []
    kernel = weights.take(what, filters, x.channels // groups, size, size)
    operands = [x.name, graph.constant(f"{name}.weights", kernel)]
    if not normalized:
        operands.append(graph.constant(f"{name}.bias", bias))
    made = graph.add(
        "Conv", operands, f"{name}.conv", kernel_shape=[size, size], strides=[stride, stride], pads=[pad] * 4,
        group=groups,
    )  # fmt: skip
    if normalized:
        made = _batch_norm(section, network, made, bias, *statistics)
    height, width = (_count(section, side + 2 * pad, size, stride) for side in (x.height, x.width))
    return FeatureMap(activated(section, network, made, "logistic"), filters, height, width)


def _batch_norm(
    section: Section, network: Network, x: str, bias: np.ndarray, scale: np.ndarray, mean: np.ndarray,
    variance: np.ndarray,
) -> str:  # fmt: skip
    if (variance < 0).any():
        channel = int(np.flatnonzero(variance < 0)[0])
        raise ModelFileError(
            f"{section.place} has a variance below 0 in {network.weights.path}",
            received=f"{variance[channel]} of channel {channel}", valid="0 or more",
        )  # fmt: skip
    name = network.name(section)
    widened = (np.sqrt(variance.astype(np.float64)) + _EPSILON) ** 2
    values = {"scale": scale, "shift": bias, "mean": mean, "variance": widened.astype(np.float32)}
    constants = [network.graph.constant(f"{name}.{key}", value) for key, value in values.items()]
    return network.graph.add("BatchNormalization", [x, *constants], f"{name}.norm", epsilon=0.0)


def activated(section: Section, network: Network, x: str, default: str) -> str:
    """`x` behind the activation that the section names."""
    kind, name = section.text("activation", default), f"{network.name(section)}.activation"
    if kind not in ACTIVATIONS:
        raise UnsupportedModelError(
            f"{section.place} has an activation that is not supported", received=kind[:80],
            valid=", ".join(ACTIVATIONS),
        )  # fmt: skip
    return ACTIVATIONS[kind](network, x, name)


def _swish(network: Network, x: str, name: str) -> str:
    return network.graph.add("Mul", [x, network.graph.add("Sigmoid", [x], f"{name}.sigmoid")], name)


def _one(op: str, **attributes: float) -> Callable[[Network, str, str], str]:
    return lambda network, x, name: network.graph.add(op, [x], name, **attributes)


ACTIVATIONS: dict[str, Callable[[Network, str, str], str]] = {
    "linear": lambda network, x, name: x,
    "leaky": _one("LeakyRelu", alpha=0.1),
    "relu": _one("Relu"),
    "logistic": _one("Sigmoid"),
    "tanh": _one("Tanh"),
    "mish": _one("Mish"),
    "swish": _swish,
}


def maxpool(section: Section, network: Network) -> FeatureMap:
    """Padding is `size` − 1 in all, half of it, rounded down, in front; a window counts what it covers."""
    section.check_keys(("size", "stride", "padding"))
    x = network.last
    stride = section.whole("stride", 1, 1)
    size = section.whole("size", stride, 1, _LARGEST_WINDOW)
    padding = section.whole("padding", size - 1, 0, _LARGEST_WINDOW)
    height, width = (_count(section, side + padding, size, stride) for side in (x.height, x.width))
    before = padding // 2
    after = [
        max(0, (count - 1) * stride + size - side - before)
        for count, side in ((height, x.height), (width, x.width))
    ]
    if max(before, *after) >= size:
        raise UnsupportedModelError(
            f"{section.place} has windows that cover nothing but padding", received=f"padding={padding}",
            valid=f"up to {size - 1}",
        )  # fmt: skip
    made = network.graph.add(
        "MaxPool", [x.name], network.name(section), kernel_shape=[size, size], strides=[stride, stride],
        pads=[before, before, *after],
    )  # fmt: skip
    return FeatureMap(made, x.channels, height, width)


def _count(section: Section, padded: int, size: int, stride: int) -> int:
    """How many windows lie along a side."""
    if padded < size:
        raise ModelFileError(
            f"{section.place} has a window that is larger than its map", received=f"size={size}",
            valid=f"up to {padded}", next_command="the same command with a larger --image-size",
        )  # fmt: skip
    return (padded - size) // stride + 1


def route(section: Section, network: Network) -> FeatureMap:
    """The channels of other layers, one behind the other; of each, group `group_id` of `groups`."""
    section.check_keys(("layers", "groups", "group_id"))
    numbers = section.wholes("layers", -(1 << 16), 1 << 16)
    maps = [network.at(section, "layers", number) for number in numbers]
    sizes = {(each.height, each.width) for each in maps}
    if len(sizes) > 1:
        raise ModelFileError(
            f"{section.place} joins maps of different sizes",
            received=", ".join(f"{h} x {w}" for h, w in sorted(sizes)), valid="one height and width",
        )  # fmt: skip
    groups = section.whole("groups", 1, 1)
    group = section.whole("group_id", 0, 0, groups - 1)
    maps = [_group(section, network, each, groups, group) for each in maps]
    channels = sum(each.channels for each in maps)
    if len(maps) == 1:
        return maps[0]
    joined = network.graph.add("Concat", [each.name for each in maps], network.name(section), axis=1)
    return FeatureMap(joined, channels, maps[0].height, maps[0].width)


def _group(section: Section, network: Network, x: FeatureMap, groups: int, group: int) -> FeatureMap:
    if groups == 1:
        return x
    if x.channels % groups:
        raise ModelFileError(
            f"{section.place} has groups that do not divide a layer's channels", received=groups,
            valid=f"a divisor of {x.channels}",
        )  # fmt: skip
    part = x.channels // groups
    name, graph = network.name(section), network.graph
    limits = [
        graph.constant(f"{name}.{key}.{part}", np.array([value], np.int64))
        for key, value in (("from", group * part), ("to", (group + 1) * part), ("axis", 1))
    ]
    return FeatureMap(graph.add("Slice", [x.name, *limits], f"{name}.group"), part, x.height, x.width)


def shortcut(section: Section, network: Network) -> FeatureMap:
    """The last map plus another one, then the activation."""
    section.check_keys(("from", "activation", "weights_type"))
    section.check_value("weights_type", "none", "none")
    x = network.last
    other = network.at(section, "from", section.whole("from", None, -(1 << 16)))
    shape, valid = ((each.channels, each.height, each.width) for each in (other, x))
    if shape != valid:
        raise UnsupportedModelError(
            f"{section.place} adds a map of another shape", received=list(shape), valid=str(list(valid))
        )
    total = network.graph.add("Add", [x.name, other.name], network.name(section))
    return FeatureMap(activated(section, network, total, "linear"), *valid)


def upsample(section: Section, network: Network) -> FeatureMap:
    """Every pixel `stride` times along both sides."""
    section.check_keys(("stride", "scale"))
    if "scale" in section.values and section.numbers("scale", 0, 1e6, 1) != [1]:
        section.check_value("scale", "1", "1")
    x, factor = network.last, section.whole("stride", 2, 1, 64)
    made = network.graph.upsample(x.name, factor, network.name(section))
    return FeatureMap(made, x.channels, x.height * factor, x.width * factor)


def dropout(section: Section, network: Network) -> FeatureMap:
    """Nothing, but a layer that counts."""
    return network.last


def head(section: Section, network: Network) -> FeatureMap:
    """What the last map means: `heads` reads it."""
    network.heads.append(Head(section, network.last))
    return network.last


LAYERS: dict[str, Callable[[Section, Network], FeatureMap]] = {
    "convolutional": convolutional,
    "conv": convolutional,
    "maxpool": maxpool,
    "max": maxpool,
    "route": route,
    "reorg": reorg,
    "shortcut": shortcut,
    "upsample": upsample,
    "dropout": dropout,
    "region": head,
    "yolo": head,
}


def add_layer(section: Section, network: Network) -> None:
    """Append the map that a section makes. Raises UnsupportedModelError for a type that is not known."""
    if section.name not in LAYERS:
        raise UnsupportedModelError(
            f"{section.place} is a layer that is not supported", received=f"[{section.name}]"[:80],
            valid=", ".join(f"[{name}]" for name in LAYERS),
        )  # fmt: skip
    network.maps.append(LAYERS[section.name](section, network))
