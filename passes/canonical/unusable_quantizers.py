"""What no rewrite can help: quantizers that aren't those of integers known in advance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np
from onnx import NodeProto, TensorProto

from aqd_deploy.errors import ScaleError, UnsupportedModelError
from aqd_deploy.passes.canonical.draft import STANDARD, Draft, attribute, is_standard
from aqd_deploy.passes.canonical.microsoft import MICROSOFT
from aqd_deploy.passes.operators import label_of

_DYNAMIC = {
    *("DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"),
    *("DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "MatMulIntegerToFloat"),
}
_QUANTIZE_AGAIN = (
    "onnxruntime.quantization.quantize_static(..., activation_type=QuantType.QUInt8), which writes static "
    "8-bit QDQ files"
)


def refuse_quantizers(draft: Draft) -> None:
    """UnsupportedModelError or ScaleError, each of which names all places of its kind.

        x ── DynamicQuantizeLinear ── ConvInteger        refused

    1. Scales that are computed from the image (dynamic quantization).
    2. Activations of 16 bits.
    3. A scale of infinity: calibration saw infinite numbers.
    4. No quantizer at all: a float network.
    5. Codes that are interpolated without being dequantized: each runtime rounds the result in its own way.
    """
    _refuse_dynamic(draft)
    _refuse_interpolated(draft)
    constant = set(draft.initializers)
    wide, infinite = [], []
    for node in draft.nodes:
        if is_standard(node, "QuantizeLinear", "DequantizeLinear"):
            scale = draft.array(node.input[1])
            if scale is not None and np.isinf(scale.astype(np.float64)).any():
                infinite.append(node)
        if is_standard(node, "QuantizeLinear") and node.input[0] not in constant and _bits(draft, node) > 8:
            wide.append(node)
    if wide:
        raise UnsupportedModelError(
            f"activations are quantized to 16 bits: {_labels(wide)}",
            valid="uint8 or int8 activations", next_command=_QUANTIZE_AGAIN,
        )  # fmt: skip
    if infinite:
        raise ScaleError(
            f"infinity can't be a quantization step: {_labels(infinite)}",
            received="inf", valid="positive finite numbers",
            next_command="quantize again without infinite numbers: a Pad of -inf in front of MaxPool belongs "
            "into MaxPool's own pads",
        )  # fmt: skip
    if not any(is_standard(node, "QuantizeLinear", "DequantizeLinear") for node in draft.nodes):
        raise UnsupportedModelError(
            "the file has no quantizers: it is a float network",
            valid="a quantized ONNX file (docs/qdq-form.md)",
            next_command="aqd-deploy quantize FILE --calibration DIR -o OUT",
        )  # fmt: skip


def _refuse_dynamic(draft: Draft) -> None:
    """Case 1."""
    dynamic = [
        node for node in draft.nodes if node.op_type in _DYNAMIC and node.domain in (*STANDARD, MICROSOFT)
    ]
    made = {name for node in draft.nodes for name in node.output}
    dynamic += [
        node
        for node in draft.nodes
        if is_standard(node, "QuantizeLinear") and made.intersection(node.input[1:])
    ]
    if dynamic:
        raise UnsupportedModelError(
            f"scales are computed from each image (dynamic quantization): {counted(dynamic)}",
            valid="scales that are constants",
            next_command="aqd-deploy quantize FILE --calibration DIR -o OUT, which keeps the weights",
        )  # fmt: skip


def _refuse_interpolated(draft: Draft) -> None:
    """Case 5."""
    types = draft.types
    found = [
        node
        for node in draft.nodes
        if is_standard(node, "Resize")
        and attribute(node, "mode", "nearest") != "nearest"
        and types.get(node.input[0]) in (TensorProto.UINT8, TensorProto.INT8)
    ]
    if found:
        raise UnsupportedModelError(
            f"codes are interpolated, and ONNX doesn't say how the result is rounded: {_labels(found)}",
            valid="linear Resize between DequantizeLinear and QuantizeLinear", next_command=_QUANTIZE_AGAIN,
        )  # fmt: skip


def counted(nodes: Iterable[NodeProto]) -> str:
    """ "Softmax ×3, Einsum": each kind of node, with how many there are."""
    counts = Counter(node.op_type for node in nodes)
    return ", ".join(kind if count == 1 else f"{kind} ×{count}" for kind, count in counts.most_common())


def _labels(nodes: list[NodeProto]) -> str:
    more = f" and {len(nodes) - 3} more" if len(nodes) > 3 else ""
    return ", ".join(label_of(node) for node in nodes[:3]) + more


def _bits(draft: Draft, node: NodeProto) -> int:
    zero = draft.array(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if zero is not None:
        return zero.dtype.itemsize * 8
    kind = attribute(node, "output_dtype", 0)
    return 16 if kind in (TensorProto.UINT16, TensorProto.INT16) else 8
