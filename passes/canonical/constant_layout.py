"""Constants that are transposed or reshaped behind their quantizers."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from aqd_deploy.passes.canonical.constant_chain import ConstantChain, chain_of, layout_of, moved_axis
from aqd_deploy.passes.canonical.draft import Draft, attribute, is_standard
from aqd_deploy.passes.operators import label_of


def lay_constants_out(draft: Draft) -> None:
    """The codes are moved in the file.

        w ── DequantizeLinear(axis 0) ── Transpose ── MatMul        wᵀ ── DequantizeLinear(axis 1) ── MatMul

    1. Transpose, Reshape, Flatten, Squeeze and Unsqueeze of a constant behind QuantizeLinear, Clip or
       DequantizeLinear; its axis moves along.
    2. Where a Reshape takes the axis of the scales apart, or the array doesn't fit, it stays.
    """
    producers = draft.producers()

    def rule(node: NodeProto) -> list[NodeProto] | None:
        if not is_standard(node, "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze"):
            return None
        layout = layout_of(draft, node)
        chain = chain_of(draft, producers, node.input[0])
        if layout is None or chain is None or not chain.nodes:
            return None
        try:
            array = layout(chain.array)
            axis = _moved(node, chain, array, chain.axis(draft))
        except (IndexError, ValueError):
            return None
        made, _ = chain.mapped(draft, array, axis)
        made[-1].output[0] = node.output[0]
        for each in made:
            producers[each.output[0]] = each
        draft.changed.append(f"{label_of(node)}: {node.op_type} of a constant computed")
        return made

    draft.rewrite(rule)


def _moved(node: NodeProto, chain: ConstantChain, array: np.ndarray, axis: int | None) -> int | None:
    """Where the axis of the scales is in the moved array; ValueError where it is nowhere."""
    if axis is not None and is_standard(node, "Transpose"):
        perm: list[int] = attribute(node, "perm") or list(range(chain.array.ndim))[::-1]
        return perm.index(axis)
    return moved_axis(chain.array.shape, array.shape, axis)
