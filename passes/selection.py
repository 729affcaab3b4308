"""Selections and paddings of a file: what their constants come to for the shapes at hand."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np

from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.passes.constants import constant, finite_reals
from aqd_deploy.passes.foreign_operations import Gather, Rearrange, Slice
from aqd_deploy.passes.graph import Graph, Node
from aqd_deploy.passes.operations import Pad


def slicing(graph: Graph, node: Node, attributes: Mapping[str, Any]) -> Slice:
    """A Slice of channels, rows and columns with whole positive steps; UnsupportedModelError for others."""
    sizes = graph.shapes[node.inputs[0]]
    starts, ends = (_whole(graph, node, index) for index in (1, 2))
    axes = _whole(graph, node, 3, list(range(len(starts))))
    steps = _whole(graph, node, 4, [1] * len(starts))
    bounds: dict[int, tuple[int, int, int]] = {}
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step < 1:
            raise UnsupportedModelError(
                f"node {node.label}: Slice with a step of {step}", valid="positive steps"
            )
        place = axis % len(sizes)
        first, last, _ = slice(start, end, step).indices(sizes[place])
        if (first, last, step) != (0, sizes[place], 1):
            bounds[place] = (first, last, step)
    if 0 in bounds:
        raise UnsupportedModelError(f"node {node.label}: Slice of the batch", valid="axes 1, 2 and 3")
    kept = dict(sorted(bounds.items())) or {1: (0, sizes[1], 1)}
    return Slice(tuple(kept), tuple(kept.values()))


def gathering(graph: Graph, node: Node, attributes: Mapping[str, Any]) -> Gather:
    """Channels in the order of a constant list."""
    channels = graph.shapes[node.inputs[0]][1]
    indices = constant(graph, node, node.inputs[1], "indices")
    if indices.ndim != 1 or not ((-channels <= indices) & (indices < channels)).all():
        raise UnsupportedModelError(
            f"node {node.label}: Gather of {list(indices.shape)} indices",
            valid=f"a list of channels from {-channels} to {channels - 1}",
        )
    return Gather(tuple(int(index) % channels for index in indices))


def rearranging(graph: Graph, node: Node, attributes: Mapping[str, Any]) -> Rearrange:
    """Elements by constant indices [1, C', H', W', 4], each the place of one in the map [1, C, H, W]."""
    shape = graph.shapes[node.inputs[0]]
    indices = constant(graph, node, node.inputs[1], "indices")
    sizes = np.array(shape)
    if indices.ndim != 5 or indices.shape[-1] != 4 or not ((-sizes <= indices) & (indices < sizes)).all():
        raise UnsupportedModelError(
            f"node {node.label}: GatherND of {list(indices.shape)} indices",
            valid=f"[1, C, H, W, 4], places in the map {list(shape)}",
        )
    places = np.ravel_multi_index(tuple(np.moveaxis(indices[0] % sizes, -1, 0)), shape)
    return Rearrange(places.astype(np.int32))


def padding(graph: Graph, node: Node, attributes: Mapping[str, Any]) -> Pad:
    """A constant around rows and columns; UnsupportedModelError for negative pads and those of other axes."""
    rank = len(graph.shapes[node.inputs[0]])
    amounts = _whole(graph, node, 1)
    axes = [axis % rank for axis in _whole(graph, node, 3, list(range(rank)))]
    before = dict(zip(axes, amounts[: len(axes)], strict=True))
    after = dict(zip(axes, amounts[len(axes) :], strict=True))
    others = [each.get(axis, 0) for each in (before, after) for axis in range(rank - 2)]
    if any(others) or min(amounts) < 0:
        raise UnsupportedModelError(
            f"node {node.label}: Pad by {amounts} along the axes {axes}",
            valid="rows and columns only, by 0 or more",
        )
    value = [Fraction(0)]
    if len(node.inputs) > 2 and node.inputs[2]:
        value = finite_reals(graph, node, node.inputs[2], "padding", 1)
    rows, columns = rank - 2, rank - 1
    pads = tuple(each.get(axis, 0) for each in (before, after) for axis in (rows, columns))
    return Pad(pads, tuple(value))


def _whole(graph: Graph, node: Node, index: int, absent: list[int] | None = None) -> list[int]:
    """The whole numbers of a constant input; `absent` where there is no such input."""
    name = node.inputs[index] if len(node.inputs) > index else ""
    if not name and absent is not None:
        return absent
    return [int(value) for value in constant(graph, node, name, f"input {index}").ravel()]
