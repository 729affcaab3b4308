"""Nodes that function bodies are made of."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import AttributeProto, NodeProto, helper


def attribute_of_node(name: str, reference: str, kind: AttributeProto.AttributeType) -> AttributeProto:
    """An attribute whose value is the calling node's attribute `reference`."""
    proto = AttributeProto()
    proto.name, proto.ref_attr_name, proto.type = name, reference, kind
    return proto


def constant(output: str, value: np.ndarray) -> NodeProto:
    """A constant of the body itself."""
    tensor = onnx.numpy_helper.from_array(np.asarray(value, order="C"))
    return helper.make_node("Constant", [], [output], value=tensor)


def constant_from(output: str, reference: str, kind: AttributeProto.AttributeType) -> NodeProto:
    """An int64 constant (scalar or vector) that holds the calling node's attribute."""
    node = helper.make_node("Constant", [], [output])
    field = "value_int" if kind == AttributeProto.INT else "value_ints"
    node.attribute.append(attribute_of_node(field, reference, kind))
    return node


def cast_from(source: str, output: str, reference: str) -> NodeProto:
    """A Cast to the type that the calling node's attribute names."""
    node = helper.make_node("Cast", [source], [output])
    node.attribute.append(attribute_of_node("to", reference, AttributeProto.INT))
    return node
