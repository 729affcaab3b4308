"""A float image that is taken apart before it is quantized, as YOLO networks with a Focus layer do."""

from __future__ import annotations

from onnx import NodeProto, TensorProto

from aqd_deploy.passes.canonical.draft import Draft, is_standard
from aqd_deploy.passes.canonical.float_input import meaning_of


def quantize_before_moves(draft: Draft) -> None:
    """The quantizer of what is made of a float input by moving its elements stands at the input.

        image ─┬─ Slice ─┬─ Concat ── Q ── DQ     image ── Q ── DQ ─┬─ Slice ─┬─ Concat ── Q ── DQ
               └─ Slice ─┘                                          └─ Slice ─┘

    1. Slice and Concat of one input, and nothing but QuantizeLinear nodes of one scale and zero point behind
       them: the elements are quantized as before, and the second time nothing happens to them.
    2. Quantizers that disagree, anything else that reads the input or its parts, and parts that are outputs:
       it stays, and the pass behind tells what is wrong.
    """
    for value in draft.model.graph.input:
        if value.type.tensor_type.elem_type != TensorProto.FLOAT:
            continue
        quantizer = _quantizer_of_parts(draft, value.name)
        if quantizer is None:
            continue
        name, operands = value.name, list(quantizer.input[1:])
        codes, real = draft.names.fresh(f"{name}_codes"), draft.names.fresh(f"{name}_value")
        for node in draft.nodes:
            node.input[:] = [real if each == name else each for each in node.input]
        draft.nodes = [
            draft.node("QuantizeLinear", [name, *operands], codes, like=quantizer),
            draft.node("DequantizeLinear", [codes, *operands], real, like=quantizer),
            *draft.nodes,
        ]
        draft.changed.append(f"input {name}: quantized before its elements are moved")


def _quantizer_of_parts(draft: Draft, name: str) -> NodeProto | None:
    """One of the quantizers that read parts of an input; None unless case 1 is at hand."""
    parts, quantizers = {name}, []
    for node in draft.nodes:
        read = parts.intersection(node.input)
        if not read:
            continue
        moves = is_standard(node, "Slice") or (is_standard(node, "Concat") and read == set(node.input))
        if moves:
            parts.update(node.output)
        elif is_standard(node, "QuantizeLinear") and node.input[0] != name:
            quantizers.append(node)
        else:
            return None
    told = [meaning_of(draft, node) for node in quantizers]
    if not told or None in told or any(each != told[0] for each in told) or parts & set(draft.outputs):
        return None
    return quantizers[0]
