"""Constants of an integer file as arrays: initializers and `Constant` nodes."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from onnx import AttributeProto, NodeProto, TensorProto, numpy_helper

from aqd_deploy.errors import ModelFileError, UnsupportedModelError
from aqd_deploy.integer.types import element_name

_DTYPES = {
    TensorProto.UINT8: np.uint8,
    TensorProto.INT8: np.int8,
    TensorProto.INT32: np.int32,
    TensorProto.INT64: np.int64,
    TensorProto.UINT64: np.uint64,
    # Only the whole factors of a Resize, which ONNX wants as float.
    TensorProto.FLOAT: np.float32,
}


def read_initializers(tensors: Iterable[TensorProto]) -> dict[str, np.ndarray]:
    """The initializers by name. Raises UnsupportedModelError for one of a type that the dialect has no use
    for or whose name is another's, ModelFileError for one whose data does not match its shape.
    """
    constants: dict[str, np.ndarray] = {}
    for tensor in tensors:
        if tensor.name in constants:
            raise UnsupportedModelError(f"two initializers have the name {tensor.name}")
        constants[tensor.name] = tensor_array(tensor, f"initializer {tensor.name}")
    return constants


def node_constant(proto: NodeProto, label: str) -> np.ndarray:
    """The tensor of a `Constant` node without inputs; UnsupportedModelError for any other."""
    attributes = list(proto.attribute)
    if len(attributes) != 1 or attributes[0].type != AttributeProto.TENSOR or attributes[0].name != "value":
        raise UnsupportedModelError(f"{label} is not a constant tensor", valid="one attribute, value")
    if proto.input or attributes[0].ref_attr_name:
        raise UnsupportedModelError(f"{label} is not a constant", valid="no inputs")
    return tensor_array(attributes[0].t, label)


def tensor_array(tensor: TensorProto, label: str) -> np.ndarray:
    """A tensor of the model; UnsupportedModelError or ModelFileError, in which `label` names it."""
    if tensor.data_type not in _DTYPES:
        raise UnsupportedModelError(
            f"{label} has a type that the dialect has no constants of",
            received=element_name(tensor.data_type),
            valid=", ".join(np.dtype(dtype).name for dtype in _DTYPES.values()),
        )
    if tensor.data_location == TensorProto.EXTERNAL or tensor.HasField("segment"):
        raise ModelFileError(f"{label} has no data in the model itself", next_command="load the file anew")
    try:
        array = numpy_helper.to_array(tensor)
    except (ValueError, TypeError) as error:
        raise ModelFileError(f"the data of {label} does not match its shape: {error}") from error
    if any(size < 0 for size in tensor.dims) or array.size != math.prod(tensor.dims):
        raise ModelFileError(f"the data of {label} does not match its shape", received=list(tensor.dims))
    return array
