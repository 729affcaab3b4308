"""Integer ONNX → a graph of nodes with attributes, constants and static types; every oddity is refused here.

What the nodes mean is written in docs/integer-dialect.md.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from aqd_deploy.compiler.plan import TensorType
from aqd_deploy.errors import ShapeError, UnsupportedModelError

DOMAIN = "aqd.integer"
_DTYPES: dict[int, str] = {
    onnx.TensorProto.UINT8: "uint8",
    onnx.TensorProto.INT8: "int8",
    onnx.TensorProto.INT32: "int32",
}
_STANDARD = {"ConvInteger", "Add", "Max", "MaxPool", "Resize", "Cast", "Concat", "Identity"}
_DIALECT = {"PadImage", "ConvOdd", "MultiplyShift", "Requantize", "Threshold", "SkipAdd"}
_POOL_FUNCTION = re.compile(r"MaxPool_k(\d+)s(\d+)p(\d+)")


@dataclass(frozen=True, eq=False)
class Node:
    """One ONNX node: `op` without its domain, non-empty inputs, its single output."""

    name: str
    op: str
    inputs: tuple[str, ...]
    output: str
    attributes: dict[str, Any]


@dataclass
class Graph:
    """Nodes in topological order, constants by name, and the type of every other tensor."""

    inputs: list[str]
    outputs: list[str]
    nodes: list[Node]
    constants: dict[str, np.ndarray]
    types: dict[str, TensorType]
    consumers: dict[str, list[Node]] = field(default_factory=dict)
    producers: dict[str, Node] = field(default_factory=dict)


def import_graph(model: onnx.ModelProto) -> Graph:
    """Read integer ONNX.

    Raises UnsupportedModelError for a node outside the dialect and ShapeError for a shape that is not static
    [1, C, H, W].
    """
    graph = model.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes: list[Node] = []
    alias: dict[str, str] = {}
    outputs = [value.name for value in graph.output]
    for proto in graph.node:
        if proto.op_type == "Constant" and proto.domain in ("", "ai.onnx"):
            constants[proto.output[0]] = numpy_helper.to_array(helper.get_node_attr_value(proto, "value"))
            continue
        node = _read_node(proto, alias)
        if node.op == "Identity":
            if node.output in outputs:
                raise UnsupportedModelError(f"output {node.output} is a copy", valid="a computed output")
            alias[node.output] = node.inputs[0]
        else:
            nodes.append(node)
    inputs = [value.name for value in graph.input if value.name not in constants]
    types = {value.name: _declared_type(value) for value in graph.input if value.name not in constants}
    result = Graph(inputs, outputs, nodes, constants, types)
    for node in nodes:
        types[node.output] = infer_type(node, result)
        result.producers[node.output] = node
        for name in node.inputs:
            result.consumers.setdefault(name, []).append(node)
    _check_outputs(graph, result)
    return result


def constant(graph: Graph, node: Node, index: int) -> np.ndarray:
    """The constant at input `index` of `node`. Raises UnsupportedModelError where it is computed."""
    name = node.inputs[index]
    if name not in graph.constants:
        raise UnsupportedModelError(
            f"input {index} of {node.op} {node.name} must be an initializer",
            received=f"the computed tensor {name}",
        )
    return graph.constants[name]


def pool_geometry(node: Node) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int, int, int]]:
    """Kernel, strides and pads (top, left, bottom, right) of a MaxPool node or a MaxPool_k?s?p? function."""
    match = _POOL_FUNCTION.fullmatch(node.op)
    if match:
        k, s, p = (int(group) for group in match.groups())
        return (k, k), (s, s), (p, p, p, p)
    attributes = node.attributes
    kernel = _pair(attributes["kernel_shape"])
    if attributes.get("ceil_mode", 0) or _pair(attributes.get("dilations", (1, 1))) != (1, 1):
        raise UnsupportedModelError(f"MaxPool {node.name} uses ceil_mode or dilations")
    return kernel, _pair(attributes.get("strides", (1, 1))), pads_of(node)


def pads_of(node: Node) -> tuple[int, int, int, int]:
    """The `pads` attribute of a convolution or pool: top, left, bottom, right."""
    if node.attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID", "NOTSET", "VALID"):
        raise UnsupportedModelError(f"{node.op} {node.name} uses auto_pad", valid="explicit pads")
    top, left, bottom, right = (int(v) for v in node.attributes.get("pads", (0, 0, 0, 0)))
    return top, left, bottom, right


def resize_factors(node: Node, graph: Graph) -> tuple[int, int]:
    """Whole upsampling factors (rows, columns) of a nearest Resize. Raises UnsupportedModelError."""
    attributes = {k: v.decode() if isinstance(v, bytes) else v for k, v in node.attributes.items()}
    mode = (
        attributes.get("mode", "nearest"),
        attributes.get("coordinate_transformation_mode", "half_pixel"),
        attributes.get("nearest_mode", "round_prefer_floor"),
    )
    source = graph.types[node.inputs[0]]
    target = constant(graph, node, len(node.inputs) - 1)
    if target.dtype.kind == "f":
        rows, columns = float(target[2]), float(target[3])
        exact = rows.is_integer() and columns.is_integer() and target[0] == 1 and target[1] == 1
    else:
        rows, columns = target[2] / source.height, target[3] / source.width
        exact = rows.is_integer() and columns.is_integer()
    if mode != ("nearest", "asymmetric", "floor") or not exact or rows < 1 or columns < 1:
        raise UnsupportedModelError(
            f"Resize {node.name} is not nearest upsampling by whole factors",
            received=f"{mode}, factors {rows} x {columns}",
            valid="mode nearest, asymmetric, floor",
        )
    return int(rows), int(columns)


def infer_type(node: Node, graph: Graph) -> TensorType:
    """The output type of `node` from its input types."""
    if node.inputs[0] not in graph.types:
        raise UnsupportedModelError(
            f"{node.op} {node.name} reads the constant {node.inputs[0]} as its data input"
        )
    x = graph.types[node.inputs[0]]
    if node.op in ("ConvInteger", "ConvOdd"):
        return _conv_type(node, x, constant(graph, node, 1))
    if node.op == "PadImage":
        _, _, top, left, _, _, bottom, right = (int(v) for v in node.attributes["pads"])
        return TensorType(x.height + top + bottom, x.width + left + right, x.channels, x.dtype)
    if node.op in ("Requantize", "Threshold", "Cast"):
        return TensorType(*x.shape, _dtype(node.name, int(node.attributes["to"])))
    if node.op == "Resize":
        rows, columns = resize_factors(node, graph)
        return TensorType(x.height * rows, x.width * columns, x.channels, x.dtype)
    if node.op == "Concat":
        return _concat_type(node, [graph.types[name] for name in node.inputs])
    if node.op == "MaxPool" or _POOL_FUNCTION.fullmatch(node.op):
        kernel, strides, pads = pool_geometry(node)
        height = (x.height + pads[0] + pads[2] - kernel[0]) // strides[0] + 1
        width = (x.width + pads[1] + pads[3] - kernel[1]) // strides[1] + 1
        return TensorType(height, width, x.channels, x.dtype)
    return x


def _conv_type(node: Node, x: TensorType, weight: np.ndarray) -> TensorType:
    strides = _pair(node.attributes.get("strides", (1, 1)))
    dilations = _pair(node.attributes.get("dilations", (1, 1)))
    top, left, bottom, right = pads_of(node)
    height = (x.height + top + bottom - (weight.shape[2] - 1) * dilations[0] - 1) // strides[0] + 1
    width = (x.width + left + right - (weight.shape[3] - 1) * dilations[1] - 1) // strides[1] + 1
    if height < 1 or width < 1 or weight.shape[1] * node.attributes.get("group", 1) != x.channels:
        raise ShapeError(
            f"{node.op} {node.name} does not fit its input",
            received=f"input {list(x.nchw)}, weights {list(weight.shape)}",
        )
    return TensorType(height, width, weight.shape[0], "int32")


def _concat_type(node: Node, types: list[TensorType]) -> TensorType:
    if node.attributes.get("axis") not in (1, -3):
        raise UnsupportedModelError(
            f"Concat {node.name} on axis {node.attributes.get('axis')}", valid="axis 1"
        )
    if len({(t.height, t.width, t.dtype) for t in types}) != 1:
        raise ShapeError(f"Concat {node.name} joins unlike tensors", received=[t.nchw for t in types])
    return TensorType(types[0].height, types[0].width, sum(t.channels for t in types), types[0].dtype)


def _read_node(proto: onnx.NodeProto, alias: dict[str, str]) -> Node:
    name = proto.name or proto.output[0]
    standard = proto.domain in ("", "ai.onnx") and proto.op_type in _STANDARD
    dialect = proto.domain == DOMAIN and (
        proto.op_type in _DIALECT or _POOL_FUNCTION.fullmatch(proto.op_type)
    )
    if not standard and not dialect:
        raise UnsupportedModelError(
            f"node {name} is not of the integer dialect",
            received=f"{proto.domain or 'ai.onnx'}.{proto.op_type}",
            valid=", ".join(sorted(_STANDARD | _DIALECT)),
            next_command="aqd-deploy lower MODEL.qdq.onnx -o MODEL.int.onnx",
        )
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in proto.attribute}
    inputs = tuple(alias.get(name, name) for name in proto.input if name)
    return Node(name, proto.op_type, inputs, proto.output[0], attributes)


def _declared_type(value: onnx.ValueInfoProto) -> TensorType:
    tensor = value.type.tensor_type
    shape = [d.dim_value for d in tensor.shape.dim]
    if len(shape) != 4 or min(shape) < 1 or shape[0] != 1:
        written = [d.dim_value or d.dim_param or "?" for d in tensor.shape.dim]
        raise ShapeError(f"{value.name} has no static shape", received=written, valid="[1, C, H, W]")
    _, channels, height, width = shape
    return TensorType(height, width, channels, _dtype(value.name, tensor.elem_type))


def _dtype(name: str, element_type: int) -> str:
    if element_type not in _DTYPES:
        received = onnx.TensorProto.DataType.Name(element_type)
        raise UnsupportedModelError(
            f"{name} is no integer tensor", received=received, valid="uint8, int8, int32"
        )
    return _DTYPES[element_type]


def _check_outputs(proto: onnx.GraphProto, graph: Graph) -> None:
    for value in proto.output:
        if value.name not in graph.types:
            raise UnsupportedModelError(f"output {value.name} is not computed by the graph")
        dims = value.type.tensor_type.shape.dim
        declared = tuple(d.dim_value for d in dims)
        if dims and all(declared) and declared != graph.types[value.name].nchw:
            raise ShapeError(
                f"output {value.name} is declared with another shape than it has",
                received=list(declared),
                valid=str(list(graph.types[value.name].nchw)),
            )


def _pair(values: Any) -> tuple[int, int]:
    first, second = (int(v) for v in values)
    return first, second
