"""What an ONNX file is: QDQ, integer, or another."""

from __future__ import annotations

from onnx import ModelProto

from aqd_deploy.integer.domain import DOMAIN


def kind_of(model: ModelProto) -> str:
    """`integer` (imports the dialect's domain), `qdq` (has QuantizeLinear), or `float`."""
    if any(entry.domain == DOMAIN for entry in model.opset_import):
        return "integer"
    return "qdq" if any(node.op_type == "QuantizeLinear" for node in model.graph.node) else "float"
