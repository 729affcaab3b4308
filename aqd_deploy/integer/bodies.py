"""Are the functions of an integer file those of the dialect? Compared by structure, not by name.

Onnxruntime runs the body that the file brings, a program computes what docs/integer-dialect.md says: they
agree only where the body is the dialect's own (`integer.operations`). Names of values inside a body,
names of nodes, the order of attributes and how a constant is stored do not matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

import onnx
from onnx import AttributeProto, FunctionProto, NodeProto, TensorProto

from aqd_deploy.errors import ModelFileError, UnsupportedModelError
from aqd_deploy.integer.constants import tensor_array
from aqd_deploy.integer.domain import DOMAIN
from aqd_deploy.integer.operations import find_function
from aqd_deploy.integer.operations.entry import Function

_NEXT = "aqd-deploy lower MODEL.qdq.onnx -o MODEL.int.onnx, which writes the bodies"


def check_functions(model: onnx.ModelProto) -> None:
    """Every function that the file defines is one of the dialect with the dialect's body, also those that
    nothing calls; every one that a node calls is defined, once.

    Raises UnsupportedModelError.
    """
    defined: set[str] = set()
    for function in model.functions:
        label = f"the function {function.domain}.{function.name}"
        if function.name in defined:
            raise UnsupportedModelError(f"{label} is defined twice", next_command=_NEXT)
        defined.add(function.name)
        if function.domain != DOMAIN or not _is_canonical(function):
            raise UnsupportedModelError(
                f"{label} is not the dialect's",
                received="another body" if function.domain == DOMAIN else "another domain",
                valid="the bodies of docs/integer-dialect.md",
                next_command=_NEXT,
            )
    called = {node.op_type for node in model.graph.node if node.domain == DOMAIN}
    missing = sorted(called - defined)
    if missing:
        raise UnsupportedModelError(
            f"the file has no function {DOMAIN}.{missing[0]}, which its nodes call",
            next_command=_NEXT,
        )


def _is_canonical(function: FunctionProto) -> bool:
    entry = find_function(function.name)
    if entry is None or entry.smallest_body(function.name) > len(function.node):
        return False
    try:
        return _structure(function) == _canonical(entry, function.name)
    except (UnsupportedModelError, ModelFileError):
        return False


# Building the bodies takes most of the time; what a name stands for never changes.
@lru_cache(maxsize=64)
def _canonical(entry: Function, name: str) -> Any:
    return _structure(entry.function(name))


def _structure(function: FunctionProto) -> Any:
    """A value that is equal for functions that do the same in the same order.

    Raises UnsupportedModelError or ModelFileError for constants that are none of the dialect's.
    """
    names: dict[str, int] = {"": -1}
    for name in function.input:
        names.setdefault(name, len(names))
    nodes = [_node_structure(node, names) for node in function.node]
    return (
        (function.domain, function.name, function.overload),
        len(function.input),
        [names.get(name) for name in function.output],
        list(function.attribute),
        len(function.attribute_proto) + len(function.value_info),
        sorted(repr((entry.domain, entry.version)) for entry in function.opset_import),
        nodes,
    )


def _node_structure(node: NodeProto, names: dict[str, int]) -> Any:
    """A value is known by when it is made: `names` counts them, and None is one that is not made yet."""
    inputs = [names.get(name) for name in node.input]
    for name in node.output:
        # A name that is made twice would stand for the later value.
        names[name] = len(names) if name not in names else -2
    return (
        (node.domain, node.op_type, node.overload),
        inputs,
        [names[name] for name in node.output],
        sorted(_attribute_structures(node.attribute)),
    )


def _attribute_structures(attributes: Iterable[AttributeProto]) -> Iterator[str]:
    """As text, which can be sorted: a name that is no UTF-8 comes as bytes."""
    for attribute in attributes:
        value: Any
        if attribute.type == AttributeProto.TENSOR and not attribute.ref_attr_name:
            value = _tensor_structure(attribute.t)
        else:
            plain = AttributeProto()
            plain.CopyFrom(attribute)
            plain.ClearField("doc_string")
            value = plain.SerializeToString(deterministic=True)
        yield repr((attribute.name, value))


def _tensor_structure(tensor: TensorProto) -> Any:
    array = tensor_array(tensor, "a constant")
    return str(array.dtype), array.shape, array.tobytes()
