"""Keeps onnxruntime exact on x86 CPUs without VNNI.

There its convolution of u8 activations with s8 weights adds two products in saturating 16 bits
(microsoft/onnxruntime#14642): 255·127·2 does not fit. Its u8·u8 convolution widens first. w and w + 128
with zero point 128 are the same weights, so the reference runs the second where the first would be
wrong. Of s8 activations it is the other way round: its s8·s8 convolution is exact, its s8·u8 one saturates.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from aqd_deploy.integer.operations import find_operation
from aqd_deploy.integer.operations.convolution import Convolution
from aqd_deploy.integer.operations.entry import SAME, TO

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
    """A copy of an integer model whose convolutions of u8 tensors have u8 weights with zero point 128: the
    same integers.

    What an entry's `with_unsigned_weights` says stands for each.
    """
    wider = ModelProto()
    wider.CopyFrom(model)
    graph = wider.graph
    taken = {tensor.name for tensor in [*graph.initializer, *graph.input]}
    taken |= {name for node in graph.node for name in node.output}
    zero_point = _fresh(_ZERO_POINT, taken)
    signed = _signed_constants(wider)
    codes = _signed_codes(wider)
    changed = {
        node.output[0]: node.input[1] for node in graph.node
        if _convolution(node) and node.input[1] in signed and node.input[0] not in codes
    }  # fmt: skip
    read = set(changed.values())
    # A name of their own: the same constant may be read as something else, such as the ones of a window sum.
    unsigned = {name: _fresh(f"{name}_u8", taken) for name in sorted(read)}
    nodes: list[NodeProto] = []
    for node in graph.node:
        entry = _convolution(node)
        if entry is None or node.output[0] not in changed:
            nodes.append(node)
        else:
            w = unsigned[node.input[1]]
            nodes += entry.with_unsigned_weights(node, w, zero_point, lambda base: _fresh(base, taken))
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


def _convolution(node: NodeProto) -> Convolution | None:
    """The entry of a convolution, None for another node."""
    entry = find_operation(node.domain, node.op_type)
    return entry if isinstance(entry, Convolution) else None


def _signed_codes(model: ModelProto) -> set[str]:
    """Computed tensors of s8, and inputs."""
    found = {
        value.name for value in model.graph.input if value.type.tensor_type.elem_type == TensorProto.INT8
    }
    for node in model.graph.node:
        entry = find_operation(node.domain, node.op_type)
        if entry is None:
            continue
        to = next((attribute.i for attribute in node.attribute if attribute.name == "to"), None)
        moved = entry.returns == SAME and node.input[0] in found
        if moved or (entry.returns == TO and to == TensorProto.INT8):
            found.update(node.output)
    return found


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
