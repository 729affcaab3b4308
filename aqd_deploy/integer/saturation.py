"""Keeps onnxruntime exact on x86 CPUs without VNNI.

There its convolution of u8 activations with s8 weights adds two products in saturating 16 bits
(microsoft/onnxruntime#14642): 255·127·2 does not fit. Its u8·u8 convolution widens first. w and w + 128
with zero point 128 are the same weights, so the reference runs the second form where the first would be
wrong.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from aqd_deploy.integer.dialect import DOMAIN

_ZERO_POINT = "aqd_weight_zero_point"


def saturates() -> bool:
    """Whether this CPU is an x86 one whose flags name no VNNI; False where they can't be read.

    Only on x86 does /proc/cpuinfo have a line `flags`.
    """
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
    graph = wider.graph
    taken = {tensor.name for tensor in [*graph.initializer, *graph.input]}
    taken |= {name for node in graph.node for name in node.output}
    zero_point = _fresh(_ZERO_POINT, taken)
    signed = _signed_constants(wider)
    read = {node.input[1] for node in graph.node if _is_convolution(node) and node.input[1] in signed}
    # A name of their own: the same constant may be read as something else, such as the ones of a ConvOdd.
    unsigned = {name: _fresh(f"{name}_u8", taken) for name in sorted(read)}
    nodes: list[NodeProto] = []
    for node in graph.node:
        w = unsigned.get(node.input[1]) if _is_convolution(node) else None
        nodes += [node] if w is None else _unsigned(node, w, zero_point, taken)
    del graph.node[:]
    graph.node.extend(nodes)
    for name, new in unsigned.items():
        values = (signed[name].astype(np.int16) + 128).astype(np.uint8)
        graph.initializer.append(numpy_helper.from_array(values, new))
    graph.initializer.append(numpy_helper.from_array(np.array(128, dtype=np.uint8), zero_point))
    left = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in left]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return wider


def _fresh(base: str, taken: set[str]) -> str:
    """`base`, longer where the model has that name; taken from now on."""
    while base in taken:
        base += "_"
    taken.add(base)
    return base


def _is_convolution(node: NodeProto) -> bool:
    return node.op_type == "ConvInteger" or (node.op_type == "ConvOdd" and node.domain == DOMAIN)


def _signed_constants(model: ModelProto) -> dict[str, np.ndarray]:
    """The s8 initializers and `Constant` nodes by name."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute:
            tensors[node.output[0]] = node.attribute[0].t
    return {
        name: numpy_helper.to_array(tensor)
        for name, tensor in tensors.items()
        if tensor.data_type == TensorProto.INT8
    }


def _unsigned(node: NodeProto, w: str, zero_point: str, taken: set[str]) -> list[NodeProto]:
    """ConvInteger with the weights' zero point; for ConvOdd 2·ConvInteger(x, w) + ConvInteger(x, ones)."""
    x = node.input[0]
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
