"""Darknet's [reorg]: a map of a stride-th of the size, with stride² times the channels.

Its loop (reorg_cpu in src/blas.c) reads the map x [C, H, W] as if it were [C/s², H·s, W·s], takes the pixels
(s·i + a, s·j + b) of that into channel (s·a + b)·C/s² + c of a [C, H, W] one, and calls the result
[C·s², H/s, W/s]. So it isn't a space-to-depth of the map, and weights are trained for what it is.
"""

from __future__ import annotations

import numpy as np

from aqd_deploy.errors import ModelFileError
from aqd_deploy.frontends.darknet.cfg import Section
from aqd_deploy.frontends.darknet.network import FeatureMap, Network


def reorg(section: Section, network: Network) -> FeatureMap:
    """Cases:

    1. Stride 2 and sides that 4 divides: slices and DepthToSpace, which `lower` has integers for. Channel
       (2a + b)·C + c at (2i + k, 2j + l) is x[c, 4i + 2a + k, 4j + 2l + b].
    2. Anything else: Reshape, SpaceToDepth, Reshape.
    """
    section.check_keys(("stride", "reverse", "flatten", "extra"))
    for key in ("reverse", "flatten", "extra"):
        section.check_value(key, "0", "0")
    x, stride = network.last, section.whole("stride", 1, 1, 64)
    if x.channels % stride**2 or x.height % stride or x.width % stride:
        raise ModelFileError(
            f"{section.place} has a stride that does not divide its map",
            received=f"stride={stride} of {x.channels} x {x.height} x {x.width}",
            valid="channels that stride² divides, and sides that it divides",
        )  # fmt: skip
    name = network.name(section)
    if stride == 2 and x.height % 4 == 0 and x.width % 4 == 0:
        made = _by_slices(network, x, name)
    else:
        made = _by_reshape(network, x, stride, name)
        network.notes.append(
            f"{section.place} mixes rows of a map of {x.height} x {x.width}, which has no integer form; "
            "of sides that 4 divides it has one, such as those of --image-size 448"
        )
    return FeatureMap(made, x.channels * stride**2, x.height // stride, x.width // stride)


def _by_slices(network: Network, x: FeatureMap, name: str) -> str:
    graph = network.graph

    def every_fourth(row: int, column: int) -> str:
        values = {"from": [row, column], "to": [x.height, x.width], "axes": [2, 3], "steps": [4, 4]}
        tag = f"{name}.{row}{column}"
        operands = [graph.constant(f"{tag}.{key}", np.array(each)) for key, each in values.items()]
        return graph.add("Slice", [x.name, *operands], tag)

    parts = []
    for a in range(2):
        for b in range(2):
            pixels = [every_fourth(2 * a + k, 2 * m + b) for k in range(2) for m in range(2)]
            joined = graph.add("Concat", pixels, f"{name}.{a}{b}.phases", axis=1)
            parts.append(graph.add("DepthToSpace", [joined], f"{name}.{a}{b}.map", blocksize=2, mode="DCR"))
    return graph.add("Concat", parts, name, axis=1)


def _by_reshape(network: Network, x: FeatureMap, stride: int, name: str) -> str:
    graph = network.graph
    large = [1, x.channels // stride**2, x.height * stride, x.width * stride]
    small = [1, x.channels * stride**2, x.height // stride, x.width // stride]
    seen = graph.add("Reshape", [x.name, graph.constant(f"{name}.large", np.array(large))], f"{name}.seen")
    moved = graph.add("SpaceToDepth", [seen], f"{name}.moved", blocksize=stride)
    return graph.add("Reshape", [moved, graph.constant(f"{name}.small", np.array(small))], name)
