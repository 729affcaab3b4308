"""The quantizer of a float image: the program takes the codes."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto, TensorProto, helper

from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.passes.canonical.draft import Draft, attribute, is_standard
from aqd_deploy.passes.operators import label_of

_CODES = {np.dtype(np.uint8): TensorProto.UINT8, np.dtype(np.int8): TensorProto.INT8}


def take_input_quantizers_off(draft: Draft) -> None:
    """A float input becomes its codes; the manifest has scale and zero point, so that `run` can take floats.

        image (float) ── QuantizeLinear ── DequantizeLinear ── Conv
        image (uint8) ── DequantizeLinear ── Conv          manifest: inputs.image = scale, zero_point, dtype

    1. An input that only QuantizeLinear nodes of one scale and zero point read.
    2. UnsupportedModelError where they disagree: there would be two images.
    3. An input that something else reads as well stays, and check_model says so.
    """
    readers = draft.readers()
    alias: dict[str, str] = {}
    taken: list[NodeProto] = []
    for value in draft.model.graph.input:
        kind = value.type.tensor_type.elem_type
        quantizers = readers.get(value.name, [])
        if kind != TensorProto.FLOAT or not quantizers or value.name in draft.outputs:
            continue
        if not all(is_standard(node, "QuantizeLinear") for node in quantizers):
            continue
        told = [meaning_of(draft, node) for node in quantizers]
        if None in told:
            continue
        for node, other in zip(quantizers[1:], told[1:], strict=True):
            if other != told[0]:
                raise _disagreement(value.name, (quantizers[0], node), (told[0], other))
        entry = told[0]
        assert entry is not None, "looked at above"
        value.type.tensor_type.elem_type = _CODES[np.dtype(entry["dtype"])]
        alias |= {node.output[0]: value.name for node in quantizers}
        taken += quantizers
        draft.manifest.setdefault("inputs", {})[value.name] = entry
        draft.changed.append(f"input {value.name}: {entry['dtype']} codes, scale {entry['scale']:.6g}")
    draft.nodes = [node for node in draft.nodes if not any(node is each for each in taken)]
    draft.substitute(alias)


def meaning_of(draft: Draft, node: NodeProto) -> dict | None:
    """The manifest's entry of a quantizer of one scale, None for one that fold_quantizers must refuse."""
    scale = draft.array(node.input[1])
    zero = draft.array(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if zero is None:
        kind = attribute(node, "output_dtype", 0) or TensorProto.UINT8
        zero = np.zeros((), helper.tensor_dtype_to_np_dtype(kind))
    if scale is None or scale.size != 1 or zero.size != 1 or zero.dtype not in _CODES:
        return None
    step = float(scale.reshape(()))
    if not np.isfinite(step) or step <= 0:
        return None
    return {"scale": step, "zero_point": int(zero.reshape(())), "dtype": str(zero.dtype)}


def _disagreement(
    name: str, nodes: tuple[NodeProto, NodeProto], told: tuple[dict | None, dict | None]
) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"the quantizers {label_of(nodes[0])} and {label_of(nodes[1])} disagree on the input {name}",
        received=" and ".join(f"scale {e['scale']:.6g}, zero point {e['zero_point']}" for e in told if e),
        valid="one scale and zero point for an input",
        next_command="quantize the file again with one quantizer for each input",
    )
