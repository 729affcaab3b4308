"""Activations that are quantized with a step of each channel's own."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from aqd_deploy.passes.canonical.draft import Draft, attribute, copy_of, is_standard
from aqd_deploy.passes.operators import label_of


def divide_by_channel_steps(draft: Draft) -> None:
    """A quantizer has one step; a step a channel is a division in front of it, which no node computes.

        x ── QuantizeLinear(s_c) ── q        x ── Div(s_c) ── QuantizeLinear(1) ── q

    1. NNCF writes this in front of depthwise convolutions, whose DequantizeLinear keeps its scales.
    2. Zero points that differ by even numbers: what they differ by is added in front. Rounding half to even
       does not mind an even number; it would an odd one.
    3. Of an input, with other zero points, or along another axis it stays: fold_quantizers refuses it.
    """
    constant = set(draft.initializers)
    inputs = set(draft.inputs)
    ranks = {name: len(shape) for name, shape in draft.shapes.items()}

    def rule(node: NodeProto) -> list[NodeProto] | None:
        if not is_standard(node, "QuantizeLinear") or node.input[0] in constant | inputs:
            return None
        scale = draft.array(node.input[1])
        if scale is None or scale.ndim != 1 or scale.size < 2 or ranks.get(node.input[0]) != 4:
            return None
        zero = draft.array(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        beyond = np.zeros(1) if zero is None else zero.astype(np.int64) - int(zero.ravel()[0])
        if attribute(node, "axis", 1) not in (1, -3) or (beyond % 2).any():
            return None
        output = node.output[0]
        steps = draft.constant(f"{output}_steps", scale.reshape(1, -1, 1, 1))
        made = [draft.node("Div", [node.input[0], steps], like=node)]
        if beyond.any():
            offsets = draft.constant(f"{output}_offsets", beyond.astype(np.float32).reshape(1, -1, 1, 1))
            made.append(draft.node("Add", [made[0].output[0], offsets], like=node))
        plain = copy_of(node)
        plain.input[0], plain.input[1] = made[-1].output[0], draft.scalar(f"{output}_step", 1.0)
        if zero is not None:
            plain.input[2] = draft.constant(f"{output}_zero_point", zero.ravel()[0])
        others = [each for each in node.attribute if each.name != "axis"]
        del plain.attribute[:]
        plain.attribute.extend(others)
        draft.changed.append(f"{label_of(node)}: {scale.size} steps, one a channel, as a division")
        return [*made, plain]

    draft.rewrite(rule)
