"""SpaceToDepth: squares of pixels that become channels."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from aqd_deploy.passes.canonical.draft import Draft, attribute, is_standard
from aqd_deploy.passes.operators import label_of

MOST_PARTS = 256


def space_to_depth_by_slices(draft: Draft) -> None:
    """Every place of the squares is a Slice with steps.

        x ── SpaceToDepth(2) ── y        x ─┬ Slice(0, 0) ─┬ Concat ── y
                                            ├ Slice(0, 1) ─┤
                                            ├ Slice(1, 0) ─┤
                                            └ Slice(1, 1) ─┘

    1. Of a map whose sides the block divides: channel (a·b + c)·C + k is what lies at row a and column c of
       each square of b x b pixels of channel k.
    2. Of an open shape, other sides, or squares of more than 256 pixels it stays, and check_model says so.
    """
    shapes = draft.shapes

    def rule(node: NodeProto) -> list[NodeProto] | None:
        if not is_standard(node, "SpaceToDepth"):
            return None
        shape, block = shapes.get(node.input[0], ()), attribute(node, "blocksize", 0)
        if len(shape) != 4 or not 0 < block * block <= MOST_PARTS or shape[2] % block or shape[3] % block:
            return None
        output = node.output[0]
        shared = {"ends": list(shape[2:]), "axes": [2, 3], "steps": [block] * 2}
        ends, axes, steps = (draft.constant(f"{output}_{key}", np.array(v)) for key, v in shared.items())
        made = []
        for place in np.ndindex(block, block):
            starts = draft.constant(f"{output}_starts", np.array(place))
            made.append(draft.node("Slice", [node.input[0], starts, ends, axes, steps], "", like=node))
        joined = [each.output[0] for each in made]
        made.append(draft.node("Concat", joined, output, like=node, axis=1))
        draft.changed.append(f"{label_of(node)}: SpaceToDepth as {len(joined)} Slices")
        return made

    draft.rewrite(rule)
