"""QuantizeLinear and DequantizeLinear of onnxruntime's own domain, and its fused convolutions."""

from __future__ import annotations

from onnx import NodeProto

from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.passes.canonical.draft import Draft, attribute, copy_of
from aqd_deploy.passes.operators import label_of

MICROSOFT = "com.microsoft"
_ACTIVATIONS = {
    "Relu": (),
    "Sigmoid": (),
    "Tanh": (),
    "LeakyRelu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
    "Clip": ("min", "max"),
}
"""What FusedConv can have, and what its activation_params are."""


def use_onnx_domain(draft: Draft) -> None:
    """com.microsoft's words that ONNX has as well.

        x ── com.microsoft.QuantizeLinear ── q        x ── QuantizeLinear ── q
        x ── FusedConv(activation=Relu) ── y          x ── Conv ── Relu ── y

    1. QuantizeLinear and DequantizeLinear mean the same in both domains.
    2. FusedConv: Conv, the Add of its fourth input where it has one, and the activation.
    """

    def rule(node: NodeProto) -> list[NodeProto] | None:
        if node.domain != MICROSOFT:
            return None
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            plain = copy_of(node)
            plain.domain = ""
            draft.changed.append(f"{label_of(node)}: {node.op_type} of {MICROSOFT}")
            return [plain]
        return _fused(draft, node) if node.op_type == "FusedConv" else None

    draft.rewrite(rule)


def _fused(draft: Draft, node: NodeProto) -> list[NodeProto]:
    """Case 2."""
    activation = attribute(node, "activation", "")
    if activation not in _ACTIVATIONS:
        raise UnsupportedModelError(
            f"node {label_of(node)}: FusedConv with the activation {activation}",
            valid=", ".join(_ACTIVATIONS),
            next_command="export the file again without onnxruntime's optimizations",
        )
    made = [draft.node("Conv", node.input[:3], like=node)]
    made[0].attribute.extend(each for each in node.attribute if not each.name.startswith("activation"))
    if len(node.input) > 3 and node.input[3]:
        made.append(draft.node("Add", [made[0].output[0], node.input[3]], like=node))
    source, output = made[-1].output[0], node.output[0]
    parameters = dict(zip(_ACTIVATIONS[activation], attribute(node, "activation_params", []), strict=False))
    if activation == "Clip":
        bounds = [draft.scalar(f"{output}_{name}", value) for name, value in parameters.items()]
        made.append(draft.node("Clip", [source, *bounds], output, like=node))
    else:
        made.append(draft.node(activation, [source], output, like=node, **parameters))
    draft.changed.append(f"{label_of(node)}: FusedConv taken apart")
    return made
