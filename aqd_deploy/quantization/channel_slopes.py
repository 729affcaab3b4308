"""A PRelu with a slope a channel, which has no integer form of its own, in operations that have one."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from aqd_deploy.passes.canonical.draft import Draft, is_standard


def take_channel_slopes_apart(draft: Draft) -> None:
    """slope·x + (1 − slope)·max(x, 0): a sum of two streams, as `lower` makes it of one slope for all.

        x ── PRelu(slopes) ── y        x ── Mul(slopes) ── Add ── y
                                       └─ Relu ── Mul(1 − slopes)

    1. Constant slopes [C, 1, 1].
    2. One slope for all channels, and slopes of other shapes, stay.
    """

    def rule(node: NodeProto) -> list[NodeProto] | None:
        if not is_standard(node, "PRelu"):
            return None
        slopes, shape = draft.array(node.input[1]), draft.shapes.get(node.input[0], ())
        if slopes is None or len(shape) != 4 or slopes.shape[-3:] != (shape[1], 1, 1):
            return None
        # In float64, so that both add up to 1.
        rest = draft.constant(f"{node.input[1]}_rest", (1 - slopes.astype(np.float64)).astype(np.float32))
        bent = draft.node("Relu", [node.input[0]], like=node)
        low = draft.node("Mul", [node.input[0], node.input[1]], like=node)
        high = draft.node("Mul", [bent.output[0], rest], like=node)
        total = draft.node("Add", [low.output[0], high.output[0]], node.output[0], like=node)
        return [bent, low, high, total]

    draft.rewrite(rule)
