"""Averages and maxima over whole maps."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from aqd_deploy.passes.canonical.draft import Draft, attribute, is_standard
from aqd_deploy.passes.operators import label_of

_POOLS = {
    "GlobalAveragePool": "AveragePool",
    "GlobalMaxPool": "MaxPool",
    "ReduceMean": "AveragePool",
    "ReduceMax": "MaxPool",
}


def pool_whole_maps(draft: Draft) -> None:
    """One operator for all pools.

        x [1, C, 7, 7] ── GlobalAveragePool ── y    x ── AveragePool(7x7) ── y
        x ── ReduceMean(axes 2, 3, keepdims 0) ── y    x ── AveragePool(7x7) ── Reshape ── y

    1. GlobalAveragePool and GlobalMaxPool of a map of static size.
    2. ReduceMean and ReduceMax over height, width or both; without `keepdims` a Reshape stands behind.
    3. Over other axes they stay, and check_model says so.
    """
    shapes = draft.shapes

    def rule(node: NodeProto) -> list[NodeProto] | None:
        shape: tuple[int, ...] = shapes.get(node.input[0], ()) if node.input else ()
        if not is_standard(node, *_POOLS) or len(shape) != 4:
            return None
        axes = (2, 3) if node.op_type.startswith("Global") else _axes(draft, node)
        if not axes or not set(axes) <= {2, 3}:
            return None
        kernel = [shape[axis] if axis in axes else 1 for axis in (2, 3)]
        keeps = node.op_type.startswith("Global") or attribute(node, "keepdims", 1)
        output = node.output[0] if keeps else ""
        made = [
            draft.node(_POOLS[node.op_type], node.input[:1], output, like=node,
                       kernel_shape=kernel, strides=[1, 1])
        ]  # fmt: skip
        if not keeps:
            made.append(_without(draft, node, made[0].output[0], shape, axes))
        draft.changed.append(f"{label_of(node)}: {node.op_type} as {_POOLS[node.op_type]} of the whole map")
        return made

    draft.rewrite(rule)


def _axes(draft: Draft, node: NodeProto) -> tuple[int, ...]:
    """The axes of a Reduce node from 0 on, none where they are computed or absent."""
    if len(node.input) > 1 and node.input[1]:
        array = draft.array(node.input[1])
        given = [] if array is None else array.ravel().tolist()
    else:
        given = attribute(node, "axes", [])
    return tuple(sorted(int(axis) % 4 for axis in given))


def _without(
    draft: Draft, node: NodeProto, pooled: str, shape: tuple[int, ...], axes: tuple[int, ...]
) -> NodeProto:
    """A Reshape that takes `axes` out."""
    kept = [size for axis, size in enumerate(shape) if axis not in axes]
    target = draft.constant(f"{node.output[0]}_shape", np.array(kept))
    return draft.node("Reshape", [pooled, target], node.output[0], like=node)
