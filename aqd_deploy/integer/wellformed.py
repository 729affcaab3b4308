"""What every ONNX file must be before anything in it is used, whatever network it holds.

Protobuf guarantees less than it seems: names may not be UTF-8, a tensor may hold more or fewer bytes than its
dimensions and type say, an attribute may name a type and hold another. Everything behind this module may rely
on: names that can be decoded, names that are defined once, tensors whose data is what their header says, and
attributes that hold what their type says. What the network *means* is checked by the passes and by the
compiler.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

from aqd_deploy.errors import ModelFileError

_DATA_FIELDS = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")
_PACKED_BITS = {
    getattr(TensorProto, name): bits
    for bits, names in ((4, ("UINT4", "INT4", "FLOAT4E2M1")), (2, ("UINT2", "INT2")))
    for name in names
    if hasattr(TensorProto, name)
}
_TYPES = frozenset(TensorProto.DataType.values()) - {TensorProto.UNDEFINED}
_HELD_AS_INT32: dict[int, tuple[int, int]] = {
    TensorProto.UINT8: (0, 255), TensorProto.INT8: (-128, 127), TensorProto.UINT16: (0, 65535),
    TensorProto.INT16: (-32768, 32767), TensorProto.BOOL: (0, 1),
}  # fmt: skip
_ONNX = ("", "ai.onnx")
_NEWEST = 1 << 31
# A node's attribute of these types holds one value, in this field.
_SINGLE = {
    AttributeProto.FLOAT: "f", AttributeProto.INT: "i", AttributeProto.STRING: "s",
    AttributeProto.TENSOR: "t",
    AttributeProto.GRAPH: "g", AttributeProto.SPARSE_TENSOR: "sparse_tensor",
}  # fmt: skip
_LISTS = {
    AttributeProto.FLOATS: "floats", AttributeProto.INTS: "ints", AttributeProto.STRINGS: "strings",
    AttributeProto.TENSORS: "tensors", AttributeProto.GRAPHS: "graphs",
    AttributeProto.SPARSE_TENSORS: "sparse_tensors",
}  # fmt: skip


def check_structure(model: ModelProto, name: str) -> None:
    """Raise ModelFileError unless the names of `model` can be decoded and are defined once, its attributes
    hold what their types say, and it has inputs and outputs. `name` is the file's.
    """
    bad = _undecodable(model)
    if bad is not None:
        raise ModelFileError(f"{name}: a name in the file is not UTF-8", received=repr(bad[:40]))
    version = max((entry.version for entry in model.opset_import if entry.domain in _ONNX), default=0)
    for graph_nodes in (model.graph.node, *(function.node for function in model.functions)):
        for node in graph_nodes:
            _check_node(node, name, version)
    _check_names(model.graph, name)


def check_tensor(tensor: TensorProto, name: str) -> None:
    """Raise ModelFileError unless the data of `tensor` (in the file, not external) is of its type and as
    much as its dimensions say.
    """
    count = element_count(tensor, name)
    present = [field for field in _DATA_FIELDS if len(getattr(tensor, field))]
    raw = len(tensor.raw_data)
    if tensor.HasField("segment") or len(present) + bool(raw) > 1:
        raise _bad_tensor(tensor, name, "data in several places", "one field with data")
    if present:
        _check_typed(tensor, name, present[0], count)
    elif raw != _bytes(tensor.data_type, count) or (raw and tensor.data_type == TensorProto.STRING):
        raise _bad_tensor(tensor, name, f"{raw} bytes", f"{_bytes(tensor.data_type, count)} bytes")


def element_count(tensor: TensorProto, name: str) -> int:
    """The product of the dimensions. Raises ModelFileError where one is negative, or the type is unknown."""
    if tensor.data_type not in _TYPES:
        raise _bad_tensor(tensor, name, f"type {tensor.data_type}", "a type of ONNX")
    if min(tensor.dims, default=0) < 0:
        raise _bad_tensor(tensor, name, "a negative dimension", "dimensions of 0 or more")
    return math.prod(tensor.dims)


def data_bytes(tensor: TensorProto, name: str) -> int:
    """The bytes that the data of `tensor` takes. Raises what `element_count` does, and ModelFileError for
    texts.
    """
    count = element_count(tensor, name)
    if tensor.data_type == TensorProto.STRING:
        raise _bad_tensor(tensor, name, "texts as raw bytes", "numbers")
    return _bytes(tensor.data_type, count)


def tensors_of(model: ModelProto) -> Iterator[TensorProto]:
    """Every tensor: initializers, those in attributes of nodes, in subgraphs and in functions."""
    yield from _graph_tensors(model.graph)
    for function in model.functions:
        for node in function.node:
            yield from _node_tensors(node)


def _graph_tensors(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        yield from _node_tensors(node)


def _node_tensors(node: NodeProto) -> Iterator[TensorProto]:
    for attribute in node.attribute:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        for sparse in (
            *attribute.sparse_tensors,
            *([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []),
        ):
            yield from (sparse.values, sparse.indices)
        for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
            yield from _graph_tensors(graph)


def _bytes(data_type: int, count: int) -> int:
    if data_type == TensorProto.STRING:
        return 0
    if data_type in _PACKED_BITS:
        return -(-count * _PACKED_BITS[data_type] // 8)
    return count * onnx.helper.tensor_dtype_to_np_dtype(data_type).itemsize


def _check_typed(tensor: TensorProto, name: str, field: str, count: int) -> None:
    kind = tensor.data_type
    wanted = onnx.helper.tensor_dtype_to_field(kind)
    if field != wanted:
        raise _bad_tensor(tensor, name, f"data in {field}", f"data in {wanted}")
    if kind in _PACKED_BITS:
        held = _bytes(kind, count)
    else:
        held = 2 * count if kind in (TensorProto.COMPLEX64, TensorProto.COMPLEX128) else count
    values = getattr(tensor, field)
    if len(values) != held:
        raise _bad_tensor(tensor, name, f"{len(values)} values", f"{held} values")
    if kind in _HELD_AS_INT32 and count:
        low, high = _HELD_AS_INT32[kind]
        array = np.array(values, np.int64)
        if array.min() < low or array.max() > high:
            raise _bad_tensor(tensor, name, "values beyond its type", f"{low} to {high}")


def _bad_tensor(tensor: TensorProto, name: str, received: str, valid: str) -> ModelFileError:
    known = tensor.data_type in _TYPES
    kind = TensorProto.DataType.Name(tensor.data_type).lower() if known else "unknown type"
    return ModelFileError(
        f"{name}: the tensor {tensor.name or 'without a name'} ({kind} {list(tensor.dims)}) is damaged",
        received=received,
        valid=valid,
    )


def _check_names(graph: GraphProto, name: str) -> None:
    initializers = [tensor.name for tensor in graph.initializer]
    initializers += [sparse.values.name for sparse in graph.sparse_initializer]
    inputs = [value.name for value in graph.input]
    computed = [output for node in graph.node for output in node.output if output]
    for names in (initializers, inputs, computed):
        if "" in names:
            raise ModelFileError(f"{name}: an input or initializer of the model has no name")
        if (twice := _first_repeated(names)) is not None:
            raise ModelFileError(f"{name}: the tensor {twice} is defined twice")
    defined = {*initializers, *inputs}
    again = next((each for each in computed if each in defined), None)
    if again is not None:
        raise ModelFileError(f"{name}: the tensor {again} is defined twice")
    defined.update(computed)
    used = [source for node in graph.node for source in node.input if source]
    missing = next((each for each in used if each not in defined), None)
    if missing is not None:
        raise ModelFileError(f"{name}: nothing in the file makes the tensor {missing}, which a node reads")
    outputs = [value.name for value in graph.output]
    if not outputs or not set(inputs) - set(initializers):
        raise ModelFileError(f"{name}: the model has no {'inputs' if outputs else 'outputs'}")
    lost = next((each for each in outputs if each not in defined), None)
    if lost is not None:
        raise ModelFileError(f"{name}: nothing in the file makes the output {lost or 'without a name'}")
    if _first_repeated(outputs) is not None:
        raise ModelFileError(f"{name}: the output {_first_repeated(outputs)} is named twice")
    for value in (*graph.input, *graph.output, *graph.value_info):
        kind_of_value = value.type.tensor_type.elem_type
        if kind_of_value and kind_of_value not in _TYPES:
            raise ModelFileError(f"{name}: {value.name} is of an unknown type", received=kind_of_value)


def _first_repeated(names: list[str]) -> str | None:
    seen: set[str] = set()
    for each in names:
        if each and each in seen:
            return each
        seen.add(each)
    return None


def _check_node(node: NodeProto, name: str, version: int) -> None:
    label = node.name or (node.output[0] if node.output else "without a name")
    if not node.op_type or not any(node.output):
        raise ModelFileError(f"{name}: the node {label} has no {'output' if node.op_type else 'operator'}")
    twice = _first_repeated([attribute.name for attribute in node.attribute])
    if twice is not None:
        raise ModelFileError(f"{name}: the node {label} has two attributes {twice}")
    wanted = _attribute_types(node, version)
    for attribute in node.attribute:
        if attribute.ref_attr_name:
            continue
        if attribute.type != wanted.get(attribute.name, attribute.type):
            raise ModelFileError(
                f"{name}: the attribute {attribute.name} of the node {label} is of another type",
                received=attribute.type,
                valid=AttributeProto.AttributeType.Name(wanted[attribute.name]).lower(),
            )
        if _first_undecodable((attribute.s, *attribute.strings)) is not None:
            raise ModelFileError(
                f"{name}: the attribute {attribute.name} of the node {label} is not UTF-8",
                received=attribute.s[:40],
            )
        single = _SINGLE.get(attribute.type)
        if single is None and attribute.type not in _LISTS:
            raise ModelFileError(
                f"{name}: the attribute {attribute.name} of the node {label} has no type that is known",
                received=attribute.type,
            )
        if not attribute.name or (single is not None and not _has_value(attribute, single)):
            raise ModelFileError(
                f"{name}: the attribute {attribute.name or 'without a name'} of the node {label} is damaged",
                received="no value of its type",
                valid=AttributeProto.AttributeType.Name(attribute.type).lower(),
            )


def _has_value(attribute: AttributeProto, single: str) -> bool:
    """Some writers leave out a number or a text that is zero; a value of another type is damage."""
    if attribute.HasField(single):
        return True
    values = {*_SINGLE.values(), *_LISTS.values()}
    return single in ("i", "f", "s") and not any(field.name in values for field, _ in attribute.ListFields())


def _attribute_types(node: NodeProto, version: int) -> dict[str, int]:
    """The types that ONNX gives the attributes of this operator, {} where it does not know it."""
    if node.domain not in _ONNX or not 0 < version < _NEWEST:
        return {}
    try:
        schema = onnx.defs.get_schema(node.op_type, version, "")
    except onnx.defs.SchemaError:
        return {}
    return {name: int(attribute.type.value) for name, attribute in schema.attributes.items()}  # type: ignore[attr-defined]


def _first_undecodable(texts: Iterable[bytes]) -> bytes | None:
    for text in texts:
        try:
            text.decode()
        except UnicodeDecodeError:
            return text
    return None


def _undecodable(message: Message) -> bytes | None:
    """A text in `message` that is not UTF-8: Python's protobuf gives it as bytes, or fails when it is
    read.
    """
    if isinstance(message, TensorProto):  # its data is left alone, which may be large
        texts = [message.name, message.doc_string]
        texts += [text for entry in message.external_data for text in (entry.key, entry.value)]
        return _first_bytes(texts)
    try:
        for field, value in message.ListFields():
            found = None
            if field.type == FieldDescriptor.TYPE_STRING:
                found = _first_bytes([value] if isinstance(value, str | bytes) else value)
            elif field.type == FieldDescriptor.TYPE_MESSAGE:
                inner = value if hasattr(value, "__len__") else [value]
                found = next((bad for each in inner if (bad := _undecodable(each)) is not None), None)
            if found is not None:
                return found
    except UnicodeDecodeError as error:
        return bytes(error.object)
    return None


def _first_bytes(texts: Iterable[str | bytes]) -> bytes | None:
    return next((text for text in texts if isinstance(text, bytes)), None)
