"""Keeps onnxruntime exact on x86 CPUs without VNNI.

There its convolution of u8 activations with s8 weights adds two products in saturating 16 bits
(microsoft/onnxruntime#14642): 255·127·2 does not fit. Its u8·u8 convolution widens first. w and w + 128
with zero point 128 are the same weights, so the reference runs the second form where the first would be
wrong.
"""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from aqd_deploy.integer.dialect import DOMAIN

_ZERO_POINT = "aqd_weight_zero_point"


def saturates() -> bool:
    """Whether this CPU is an x86 one whose flags name no VNNI; False where they can't be read."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    flags = next((line for line in text.splitlines() if line.startswith("flags")), "")
    return bool(flags) and "vnni" not in flags


def with_unsigned_weights(model: ModelProto) -> ModelProto:
    """A copy of an integer model whose convolutions have u8 weights with zero point 128: the same integers.

    `ConvOdd` is written out as its body; its window sum (weights 1) can't saturate and stays.
    """
    wider = ModelProto()
    wider.CopyFrom(model)
    weights = {node.input[1] for node in wider.graph.node if _is_convolution(node)} & _signed_initializers(
        wider
    )
    for tensor in wider.graph.initializer:
        if tensor.name in weights:
            values = numpy_helper.to_array(tensor).astype(np.int16) + 128
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.uint8), tensor.name))
    taken = {tensor.name for tensor in [*wider.graph.initializer, *wider.graph.input]}
    taken |= {name for node in wider.graph.node for name in node.output}
    zero_point = _fresh(_ZERO_POINT, taken)
    nodes: list[NodeProto] = []
    for node in wider.graph.node:
        signed = _is_convolution(node) and node.input[1] in weights
        nodes += _unsigned(node, zero_point, taken) if signed else [node]
    del wider.graph.node[:]
    wider.graph.node.extend(nodes)
    wider.graph.initializer.append(numpy_helper.from_array(np.array(128, dtype=np.uint8), zero_point))
    return wider


def _fresh(base: str, taken: set[str]) -> str:
    """`base`, longer where the model has that name; taken from now on."""
    while base in taken:
        base += "_"
    taken.add(base)
    return base


def _is_convolution(node: NodeProto) -> bool:
    return node.op_type == "ConvInteger" or (node.op_type == "ConvOdd" and node.domain == DOMAIN)


def _signed_initializers(model: ModelProto) -> set[str]:
    return {tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.INT8}


def _unsigned(node: NodeProto, zero_point: str, taken: set[str]) -> list[NodeProto]:
    """ConvInteger with the weights' zero point; for ConvOdd 2·ConvInteger(x, w) + ConvInteger(x, ones)."""
    x, w = node.input[:2]
    if node.op_type == "ConvInteger":
        input_zero = node.input[2] if len(node.input) > 2 else ""
        plain = helper.make_node("ConvInteger", [x, w, input_zero, zero_point], list(node.output))
        plain.attribute.extend(node.attribute)
        return [plain]
    output = node.output[0]
    halves, sums, doubles = (_fresh(f"{output}_{name}", taken) for name in ("half", "window", "double"))
    half = helper.make_node("ConvInteger", [x, w, "", zero_point], [halves])
    window = helper.make_node("ConvInteger", [x, node.input[2]], [sums])
    for convolution in (half, window):
        convolution.attribute.extend(node.attribute)
    double = helper.make_node("Add", [halves, halves], [doubles])
    return [half, window, double, helper.make_node("Add", [doubles, sums], [output])]
