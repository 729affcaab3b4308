"""Split: several outputs of one node."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import NodeProto

from aqd_deploy.passes.canonical.draft import Draft, attribute, is_standard
from aqd_deploy.passes.operators import label_of


def split_by_slices(draft: Draft) -> None:
    """A node has one output.

        x ── Split ── a, b        x ── Slice ── a
                                  x ── Slice ── b

    1. Sizes from the second input, from `num_outputs`, or equal parts; an empty output gets no Slice.
    2. Of an open shape, or sizes that are computed, it stays, and check_model says so.
    """
    shapes = draft.shapes

    def rule(node: NodeProto) -> list[NodeProto] | None:
        if not is_standard(node, "Split") or node.input[0] not in shapes:
            return None
        shape = shapes[node.input[0]]
        axis = attribute(node, "axis", 0)
        axis += len(shape) if axis < 0 else 0
        if not 0 <= axis < len(shape):
            return None
        sizes = _sizes(draft, node, shape[axis])
        if sizes is None or sum(sizes) != shape[axis] or len(sizes) != len(node.output):
            return None
        made = []
        start = 0
        for size, output in zip(sizes, node.output, strict=True):
            if output:
                bounds = {"starts": start, "ends": start + size, "axes": axis, "steps": 1}
                names = [draft.constant(f"{output}_{key}", np.array([v])) for key, v in bounds.items()]
                made.append(draft.node("Slice", [node.input[0], *names], output, like=node))
                made[-1].name = output
            start += size
        draft.changed.append(f"{label_of(node)}: Split as {len(made)} Slices")
        return made

    draft.rewrite(rule)


def _sizes(draft: Draft, node: NodeProto, total: int) -> Sequence[int] | None:
    """The parts' sizes, None where they are computed."""
    if len(node.input) > 1 and node.input[1]:
        given = draft.array(node.input[1])
        return None if given is None else [int(size) for size in given.ravel()]
    count = attribute(node, "num_outputs", len(node.output))
    part = -(-total // count) if count > 0 else 0
    return [min(part, total - i * part) for i in range(len(node.output))] if part else None
