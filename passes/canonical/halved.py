"""Maps that a linear Resize halves."""

from __future__ import annotations

from onnx import NodeProto, TensorProto

from aqd_deploy.passes.canonical.draft import Draft, attribute, is_standard
from aqd_deploy.passes.operators import label_of

_MIDDLES = ("half_pixel", "pytorch_half_pixel")


def halve_by_averages(draft: Draft) -> None:
    """The middle of a pixel of the half map lies between four pixels: the linear value is their mean.

        x ── Resize(linear, by 1/2) ── y        x ── AveragePool(2 x 2, strides 2) ── y

    1. Half the height and half the width, of even sides, by the middles of pixels and without antialiasing.
    2. Other sizes and modes stay, and so do codes.
    """

    def rule(node: NodeProto) -> list[NodeProto] | None:
        if not is_standard(node, "Resize") or attribute(node, "mode", "nearest") != "linear":
            return None
        source, target = (draft.shapes.get(name, ()) for name in (node.input[0], node.output[0]))
        middles = attribute(node, "coordinate_transformation_mode", "half_pixel") in _MIDDLES
        halves = len(source) == 4 and source == (*target[:2], *(2 * side for side in target[2:]))
        is_real = draft.types.get(node.input[0]) == TensorProto.FLOAT
        if not (middles and halves and is_real) or attribute(node, "antialias", 0):
            return None
        draft.changed.append(f"{label_of(node)}: Resize as a mean of 2 x 2")
        window = {"kernel_shape": [2, 2], "strides": [2, 2]}
        return [draft.node("AveragePool", [node.input[0]], node.output[0], like=node, **window)]

    draft.rewrite(rule)
