"""The input shapes that a caller asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx
from onnx import ModelProto

from aqd_deploy.errors import ShapeError
from aqd_deploy.integer.manifest import set_image_size
from aqd_deploy.passes.contract import PassResult, Shape
from aqd_deploy.passes.inference import check_size
from aqd_deploy.schema import SchemaError, list_of, whole

_SIZES = list_of(whole(1))


def inputs_of(model: ModelProto) -> list[onnx.ValueInfoProto]:
    """The inputs that aren't initializers."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in constants]


def sizes_of(value: onnx.ValueInfoProto) -> list[int]:
    """The shape of an input, 0 where it is open."""
    return [d.dim_value if d.HasField("dim_value") else 0 for d in value.type.tensor_type.shape.dim]


def set_shapes(model: ModelProto, shape: Shape, result: PassResult) -> None:
    """Gives inputs the shapes of `shape`, a list for all or a dict by name, also in the manifest; what was
    inferred from others goes. Raises ShapeError for a shape that isn't the input's but for height and width.
    """
    inputs = inputs_of(model)
    given = _given(shape, [value.name for value in inputs])
    for value in inputs:
        if value.name not in given:
            result.left_alone.append(f"input {value.name}: it keeps its shape, none was asked for")
            continue
        wanted = given[value.name]
        _check(value, wanted)
        kind = value.type.tensor_type.elem_type
        value.type.CopyFrom(onnx.helper.make_tensor_type_proto(kind, wanted))
        result.changed.append(f"input {value.name}: shape set to {wanted}")
        if len(wanted) == 4:
            check_size(value.name, wanted)
            set_image_size(model, value.name, *wanted[2:])
    if given:
        del model.graph.value_info[:]
        for value in model.graph.output:
            for dim in value.type.tensor_type.shape.dim:
                dim.Clear()


def _check(value: onnx.ValueInfoProto, wanted: list[int]) -> None:
    dims = value.type.tensor_type.shape.dim
    if len(wanted) != len(dims) and len(dims):
        raise ShapeError(
            f"input {value.name} has {len(dims)} dimensions", received=wanted, valid=f"{len(dims)} numbers"
        )
    if len(dims) > 1 and dims[1].dim_value not in (0, wanted[1]):
        raise ShapeError(
            f"input {value.name} has {dims[1].dim_value} channels",
            received=wanted,
            valid="another batch-1 height and width only",
        )


def _given(shape: Shape, names: Sequence[str]) -> dict[str, list[int]]:
    if shape is None:
        return {}
    if isinstance(shape, Mapping):
        unknown = [name for name in shape if name not in names]
        if unknown:
            raise ShapeError(f"the model has no input {unknown[0]}", valid=", ".join(names))
        given = dict(shape)
    else:
        given = dict.fromkeys(names, shape)
    try:
        for name, sizes in given.items():
            _SIZES(sizes, name)
    except SchemaError as error:
        raise error.of("the given shape", ShapeError) from error
    return {name: [int(size) for size in sizes] for name, sizes in given.items()}
