"""Static shape and element type of every tensor of an ONNX file, held to limits before anything is made."""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx
from onnx import ModelProto

from aqd_deploy.errors import ModelFileError, ShapeError
from aqd_deploy.integer.types import MAX_CHANNELS, MAX_ELEMENTS

SHAPE_ADVICE = "aqd-deploy lower FILE --shape 1x3x320x320 -o OUT"


def infer(model: ModelProto) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    """Shapes and element types (onnx.TensorProto) by tensor name.

    ShapeError where shapes don't fit together, one stays open or one is too large; ModelFileError where
    inference fails otherwise.
    """
    try:
        inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        raise ShapeError(f"shapes or types don't fit together: {first_line(error)}") from error
    except (ValueError, RuntimeError) as error:
        raise ModelFileError(f"shape inference failed: {first_line(error)}") from error
    shapes: dict[str, tuple[int, ...]] = {}
    types: dict[str, int] = {}
    for value in [*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output]:
        tensor = value.type.tensor_type
        types[value.name] = tensor.elem_type
        if tensor.HasField("shape") and all(d.HasField("dim_value") for d in tensor.shape.dim):
            shapes[value.name] = tuple(d.dim_value for d in tensor.shape.dim)
    for tensor in inferred.graph.initializer:
        types[tensor.name] = tensor.data_type
        shapes[tensor.name] = tuple(tensor.dims)
    for node in inferred.graph.node:
        for name in filter(None, node.output):
            if name not in shapes:
                raise ShapeError(
                    f"the shape of {name} isn't static",
                    next_command=SHAPE_ADVICE,
                )
            check_size(name, shapes[name])
    return shapes, types


def check_size(name: str, shape: Sequence[int]) -> None:
    """ShapeError for a tensor without elements or with more than a program can hold."""
    if min(shape, default=1) < 1 or math.prod(shape) > MAX_ELEMENTS:
        raise ShapeError(
            f"tensor {name} has an impossible size",
            received=list(shape),
            valid=f"positive sizes, {MAX_ELEMENTS} elements at most",
        )


def check_map(name: str, shape: Sequence[int]) -> None:
    """ShapeError unless a computed tensor is a feature map [1, C, H, W] of at most MAX_CHANNELS channels."""
    if len(shape) != 4 or shape[0] != 1 or shape[1] > MAX_CHANNELS:
        raise ShapeError(
            f"tensor {name} isn't a feature map that can be lowered",
            received=list(shape),
            valid=f"[1, channels, height, width] with at most {MAX_CHANNELS} channels",
        )


def first_line(error: Exception) -> str:
    """The first line of a library's message that says something."""
    text = [line.strip() for line in str(error).splitlines() if line.strip()]
    return text[0] if text else type(error).__name__
