"""What would stay float inside the integer part, all of it at once."""

from __future__ import annotations

from onnx import NodeProto, TensorProto

from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.passes.canonical.draft import STANDARD, Draft, is_standard
from aqd_deploy.passes.canonical.unusable_quantizers import counted
from aqd_deploy.passes.contract import COMPLETE
from aqd_deploy.passes.operators import OPERATORS, label_of

_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_GROUP_NORM = (
    "it recomputes mean and variance from the tensor at inference, which has no integer form; "
    "AQD uses multi-level batch norm in its place"
)
_REASONS = {
    "GroupNormalization": _GROUP_NORM,
    "InstanceNormalization": "GroupNorm exported as InstanceNormalization: " + _GROUP_NORM,
    "LayerNormalization": "its statistics are computed at inference, which has no integer form",
    "Softmax": "its exponentials and division have no integer form in the dialect",
    "Gemm": "one operand has to be a matrix of constants, the other a vector",
    "MatMul": "one operand has to be a matrix of constants, the other a vector",
}
_UNNAMED = "the integer dialect has no word for it"
_LAYOUT = "what comes of it is neither a feature map nor a vector"
_OTHER_REASONS = {"Reshape": _LAYOUT, "Transpose": _LAYOUT, "Flatten": _LAYOUT}
_RETRAIN = (
    "train with multi-level batch norm in the heads, then aqd-deploy export CHECKPOINT.pt -o m.qdq.onnx"
)
_NEXT = {"GroupNormalization": _RETRAIN, "InstanceNormalization": _RETRAIN}
_END_EARLIER = (
    "quantize the network up to its heads, with everything between two quantizers in the list of valid "
    "operators; what is behind the last quantizer may be float"
)


def unknown_operators(nodes: list[NodeProto]) -> list[NodeProto]:
    """The nodes whose operator no pass knows."""
    return [node for node in nodes if node.domain not in STANDARD or node.op_type not in OPERATORS]


def refuse_islands(draft: Draft) -> None:
    """UnsupportedModelError that counts every node without an integer form.

    Reasons that people know by name come first: a GroupNorm is not reported as an unknown Reshape.
    """
    unknown = sorted(unknown_operators(draft.nodes), key=lambda node: node.op_type not in _REASONS)
    floats = _float_products(draft)
    if not unknown and not floats:
        return
    parts = []
    kinds = {node.op_type for node in unknown}
    if unknown:
        first = unknown[0]
        name = first.op_type if first.domain in STANDARD else f"{first.domain}.{first.op_type}"
        reason = {**_OTHER_REASONS, **_REASONS}.get(first.op_type, _UNNAMED)
        parts.append(f"node {label_of(first)}: {name} can't be lowered: {reason}")
    if floats:
        example = label_of(floats[0])
        parts.append(
            f"{counted(floats)} of numbers that nothing quantized, the first at {example}: "
            "float layers, such as the first and the last of AQD*"
        )
    everything = counted([*unknown, *floats])
    if len(kinds) + bool(floats) > 1 or len(unknown) > 1:
        parts.insert(0, f"{len(unknown) + len(floats)} nodes would stay float: {everything}")
    instead = _END_EARLIER if unknown else COMPLETE
    next_command = next((_NEXT[node.op_type] for node in unknown if node.op_type in _NEXT), instead)
    raise UnsupportedModelError(
        "; ".join(parts), received=everything, valid=", ".join(OPERATORS), next_command=next_command
    )


def _float_products(draft: Draft) -> list[NodeProto]:
    """Convolutions and matrix products with an operand that no quantizer made integers: what another one
    made, a float image, or a constant of reals.
    """
    real = {
        value.name
        for value in draft.model.graph.input
        if value.type.tensor_type.elem_type == TensorProto.FLOAT and value.name not in draft.initializers
    }
    found: list[NodeProto] = []
    for node in draft.nodes:
        if not is_standard(node, "QuantizeLinear", "DequantizeLinear") and real.intersection(node.input):
            found += [node] if is_standard(node, *_PRODUCTS) else []
            real.update(filter(None, node.output))
        elif is_standard(node, *_PRODUCTS):
            found += [node] if draft.initializers.keys() & set(node.input[1:2]) else []
            real.update(filter(None, node.output))
    return found
