"""What an integer ONNX file still holds in floating point: nothing, if lowering is right."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto

from aqd_deploy.integer.domain import DOMAIN
from aqd_deploy.integer.operations import find_operation, operation_of
from aqd_deploy.integer.operations.entry import SAME, TO, Operation

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)


def float_tensors(model: ModelProto) -> list[str]:
    """Names of the floating-point tensors between the inputs and the outputs, in graph order.

    Whole numbers that ONNX wants as float (the `scales` of a Resize) aren't data and don't count. A tensor of
    unknown type counts as float: what can't be shown to be integer isn't. Raises UnsupportedModelError for
    an operation of the dialect's domain that the dialect does not have.
    """
    kinds = _known_types(model)
    whole = _whole_floats(model)
    found = []
    names = [value.name for value in model.graph.input]
    names += [tensor.name for tensor in model.graph.initializer]
    names += [name for node in model.graph.node for name in node.output if name]
    for name in dict.fromkeys(names):
        kind = kinds.get(name, TensorProto.UNDEFINED)
        if name not in whole and (kind in _FLOATS or kind == TensorProto.UNDEFINED):
            found.append(name)
    return found


def _whole_floats(model: ModelProto) -> set[str]:
    names: set[str] = set()
    for node in model.graph.node:
        entry = _entry(node)
        if entry is not None:
            slots = [entry.slots[name] for name in entry.float_operands]
            names.update(node.input[slot] for slot in slots if slot < len(node.input))
    return names


def _known_types(model: ModelProto) -> dict[str, int]:
    """Element types by shape inference, then by what the entries of the dialect's operations say.

    Inference gives up on a model with an unknown domain; then only what the nodes themselves say is known.
    """
    try:
        inferred = onnx.shape_inference.infer_shapes(model)
    except onnx.shape_inference.InferenceError:
        inferred = model
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    for value in [*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output]:
        kinds[value.name] = value.type.tensor_type.elem_type
    for node in model.graph.node:
        entry = _entry(node)
        if entry is not None:
            kinds[node.output[0]] = _result_type(node, entry, kinds)
    return kinds


def _entry(node: NodeProto) -> Operation | None:
    """None for an operation that other files than integer ones have."""
    return operation_of(node) if node.domain == DOMAIN else find_operation(node.domain, node.op_type)


def _result_type(node: NodeProto, entry: Operation, kinds: Mapping[str, int]) -> int:
    if entry.returns == SAME:
        return kinds.get(node.input[0], TensorProto.UNDEFINED)
    if entry.returns == TO:
        named = [attribute.i for attribute in node.attribute if attribute.name == "to"]
        return named[0] if named else TensorProto.UNDEFINED
    return onnx.helper.np_dtype_to_tensor_dtype(np.dtype(entry.returns))
