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
    """Reshape, Transpose, Reshape, which every runtime has; `lower` makes one Rearrange of it."""
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
    name, graph = network.name(section), network.graph
    squares = np.array([x.channels // stride**2, x.height, stride, x.width, stride])
    shape = np.array([1, x.channels * stride**2, x.height // stride, x.width // stride])
    seen = graph.add("Reshape", [x.name, graph.constant(f"{name}.squares", squares)], f"{name}.seen")
    moved = graph.add("Transpose", [seen], f"{name}.moved", perm=[2, 4, 0, 1, 3])
    made = graph.add("Reshape", [moved, graph.constant(f"{name}.shape", shape)], name)
    return FeatureMap(made, *shape[1:].tolist())
