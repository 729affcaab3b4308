"""What an integer ONNX file still holds in floating point: nothing, if lowering is right."""

from __future__ import annotations

import onnx
from onnx import ModelProto, TensorProto

from aqd_deploy.integer.dialect import DOMAIN

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)


def float_tensors(model: ModelProto) -> list[str]:
    """Names of the floating-point tensors between the inputs and the outputs, in graph order.

    The `scales` of a Resize are whole upsampling factors that ONNX wants as float; they aren't data and
    don't count. A tensor of unknown type counts as float: what can't be shown to be integer isn't.
    """
    kinds = _known_types(model)
    factors = {node.input[2] for node in model.graph.node if node.op_type == "Resize" and len(node.input) > 2}
    found = []
    names = [value.name for value in model.graph.input]
    names += [tensor.name for tensor in model.graph.initializer]
    names += [name for node in model.graph.node for name in node.output if name]
    for name in dict.fromkeys(names):
        kind = kinds.get(name, TensorProto.UNDEFINED)
        if name not in factors and (kind in _FLOATS or kind == TensorProto.UNDEFINED):
            found.append(name)
    return found


def _known_types(model: ModelProto) -> dict[str, int]:
    """Element types by shape inference, then by what the dialect's nodes return.

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
        output = node.output[0]
        if node.domain == DOMAIN:
            to = [a.i for a in node.attribute if a.name == "to"]
            kinds[output] = (
                to[0] if to else TensorProto.UINT8 if node.op_type == "PadImage" else TensorProto.INT32
            )
        elif node.op_type in ("MaxPool", "Resize", "Concat", "Identity", "Max", "Add"):
            kinds[output] = kinds.get(node.input[0], TensorProto.UNDEFINED)
        elif node.op_type == "ConvInteger":
            kinds[output] = TensorProto.INT32
    return kinds
