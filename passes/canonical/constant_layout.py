"""Constants that are transposed or reshaped behind their quantizers."""

from __future__ import annotations

from onnx import NodeProto

from aqd_deploy.passes.canonical.constant_chain import chain_of, layout_of, moved_axis
from aqd_deploy.passes.canonical.draft import Draft, attribute, is_standard
from aqd_deploy.passes.operators import label_of


def lay_constants_out(draft: Draft) -> None:
    """The codes are moved in the file.

        w ── DequantizeLinear(axis 0) ── Transpose ── MatMul        wᵀ ── DequantizeLinear(axis 1) ── MatMul

    1. Transpose, Reshape, Flatten, Squeeze and Unsqueeze of a constant behind QuantizeLinear, Clip or
       DequantizeLinear; its axis moves along.
    2. Where a Reshape takes the axis of the scales apart, it stays.
    """
    producers = draft.producers()

    def rule(node: NodeProto) -> list[NodeProto] | None:
        if not is_standard(node, "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze"):
            return None
        layout = layout_of(draft, node)
        chain = chain_of(draft, producers, node.input[0])
        if layout is None or chain is None or not chain.nodes:
            return None
        array = layout(chain.array)
        axis = chain.axis(draft)
        if is_standard(node, "Transpose"):
            perm = attribute(node, "perm") or list(range(chain.array.ndim))[::-1]
            axis = None if axis is None else perm.index(axis)
        else:
            try:
                axis = moved_axis(chain.array.shape, array.shape, axis)
            except ValueError:
                return None
        made, _ = chain.mapped(draft, array, axis)
        made[-1].output[0] = node.output[0]
        for each in made:
            producers[each.output[0]] = each
        draft.changed.append(f"{label_of(node)}: {node.op_type} of a constant computed")
        return made

    draft.rewrite(rule)
