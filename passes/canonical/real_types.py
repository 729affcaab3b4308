"""Files in float16 and bfloat16."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto, TensorProto

from aqd_deploy.passes.canonical.draft import Draft, attribute, copy_of, is_standard

_SMALL = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
_REAL = (*_SMALL, TensorProto.FLOAT)


def use_float32(draft: Draft) -> None:
    """A real number is exact here, so that it does not matter in how many bits a file would round it.

        x ── Cast(FLOAT16) ── Conv(w: float16)        x ── Conv(w: float32)

    1. Constants have the same value in float32.
    2. A Cast between real types disappears.
    3. Inputs and outputs are float32; QuantizeLinear and DequantizeLinear name no real type.
    """
    alias: dict[str, str] = {}
    types = draft.types
    for name, kind in list(types.items()):
        if kind in _SMALL:
            _widen(draft, name)
    for value in (*draft.model.graph.input, *draft.model.graph.output):
        if value.type.tensor_type.elem_type in _SMALL:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
            draft.changed.append(f"{value.name} as float32")

    def rule(node: NodeProto) -> list[NodeProto] | None:
        if is_standard(node, "Cast") and types.get(node.input[0]) in _REAL and attribute(node, "to") in _REAL:
            alias[node.output[0]] = node.input[0]
            draft.changed.append(f"{node.output[0]}: Cast between real types removed")
            return []
        if is_standard(node, "DequantizeLinear") and attribute(node, "output_dtype", 0) in _SMALL:
            plain = copy_of(node)
            kept = [each for each in node.attribute if each.name != "output_dtype"]
            del plain.attribute[:]
            plain.attribute.extend(kept)
            return [plain]
        return None

    draft.rewrite(rule)
    draft.substitute(alias)


def _widen(draft: Draft, name: str) -> None:
    """Case 1."""
    array = draft.array(name)
    if array is not None:
        draft.set_constant(name, array.astype(np.float32))
        draft.changed.append(f"constant {name} as float32")
