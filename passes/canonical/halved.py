"""Maps that a linear Resize halves."""

from __future__ import annotations

from onnx import NodeProto, TensorProto

from aqd_deploy.passes.canonical.draft import Draft, attribute, is_standard
from aqd_deploy.passes.operators import label_of

_HALF = [1, 1, 0.5, 0.5]


def halve_by_averages(draft: Draft) -> None:
    """The middle of a pixel of the half map lies between four pixels: the linear value is their mean.

        x ── Resize(linear, by 1/2) ── y        x ── AveragePool(2 x 2, strides 2) ── y

    1. Half the height and half the width, of even sides, by the middles of pixels and without antialiasing.
       `pytorch_half_pixel` takes the first element for a side of one, so there it is none of these.
    2. Other sizes, scales and modes stay, and so do codes.
    """

    def rule(node: NodeProto) -> list[NodeProto] | None:
        if not is_standard(node, "Resize") or attribute(node, "mode", "nearest") != "linear":
            return None
        source, target = (draft.shapes.get(name, ()) for name in (node.input[0], node.output[0]))
        halves = len(source) == 4 and source == (*target[:2], *(2 * side for side in target[2:]))
        is_real = draft.types.get(node.input[0]) == TensorProto.FLOAT
        if not (halves and is_real and _by_middles(draft, node, min(target[2:]))):
            return None
        draft.changed.append(f"{label_of(node)}: Resize as a mean of 2 x 2")
        window = {"kernel_shape": [2, 2], "strides": [2, 2]}
        return [draft.node("AveragePool", [node.input[0]], node.output[0], like=node, **window)]

    draft.rewrite(rule)


def _by_middles(draft: Draft, node: NodeProto, side: int) -> bool:
    """Whether the mode and the scales are those of case 1, where the smaller side of the result is `side`."""
    place = attribute(node, "coordinate_transformation_mode", "half_pixel")
    middles = place == "half_pixel" or (place == "pytorch_half_pixel" and side > 1)
    plain = not attribute(node, "antialias", 0) and attribute(node, "axes") is None
    scales = draft.array(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    # Sizes alone do not tell: 0.51 of 6 rows are 3 as well, of other places.
    halves = scales is None or not scales.size or scales.tolist() == _HALF
    sizes = attribute(node, "keep_aspect_ratio_policy", "stretch") == "stretch"
    return middles and plain and halves and sizes
