"""What an ONNX file is, by its operators: what `inspect` says of it, and whether verbs have to lower it."""

from __future__ import annotations

from onnx import ModelProto, TensorProto

from aqd_deploy.integer.domain import DOMAIN

QONNX_DOMAINS = ("qonnx.custom_op.general", "onnx.brevitas", "finn.custom_op.general")
# How the names of operators on codes begin, or end.
_BEGIN, _END = ("QLinear", "QGemm", "QAttention"), "Integer"
_HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


def kind_of(model: ModelProto) -> str:
    """The first that fits of: `integer` (imports the dialect's domain), `qonnx` (has Quant nodes),
    `qoperator` (operators on codes, such as QLinearConv), `qdq` (has QuantizeLinear or DequantizeLinear),
    `float16` (has weights of 16 bits), `float`.
    """
    if any(entry.domain == DOMAIN for entry in model.opset_import):
        return "integer"
    nodes = model.graph.node
    if any(node.domain in QONNX_DOMAINS for node in nodes):
        return "qonnx"
    if any(node.op_type.startswith(_BEGIN) or node.op_type.endswith(_END) for node in nodes):
        return "qoperator"
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in nodes):
        return "qdq"
    return "float16" if any(tensor.data_type in _HALVES for tensor in model.graph.initializer) else "float"
