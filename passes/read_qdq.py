"""Reads a QDQ ONNX file into the graph that the other passes rewrite."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, numpy_helper

from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.integer.manifest import read_manifest
from aqd_deploy.integer.ranges import Interval
from aqd_deploy.passes.geometry import windowed
from aqd_deploy.passes.graph import Graph, Node, PassResult, topological
from aqd_deploy.passes.inference import check_map, infer
from aqd_deploy.passes.names import Names
from aqd_deploy.passes.operators import attributes_of, check_types, label_of

WINDOWED = ("Conv", "MaxPool")


class ReadQdq:
    """The ONNX nodes as graph nodes of the same names.

    1. Initializers and `Constant` nodes become constants.
    2. `Identity` disappears; its readers read its input. One that is a graph output stays as an alias.
    3. The rest is taken over with its attributes. Every input holds elements of a type that the operator's
       rule takes; windows of Conv and MaxPool get explicit pads.
    """

    name = "read_qdq"
    requires = "a model that check_model passed"
    ensures = "nodes in topological order; feature maps of static shape; explicit windows that fit them"

    def run(self, model: ModelProto) -> tuple[Graph, PassResult]:
        """The graph of `model`.

        ModelFileError for a damaged manifest, ShapeError for sizes that don't fit or are too large,
        UnsupportedModelError for element types or a number of outputs that no rule takes.
        """
        result = PassResult(self.name)
        shapes, types = infer(model)
        constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        inputs = {
            value.name: value.type.tensor_type.elem_type
            for value in model.graph.input
            if value.name not in constants
        }
        outputs = [value.name for value in model.graph.output]
        alias: dict[str, str] = {}
        nodes: list[Node] = []
        for proto in model.graph.node:
            used = [name for name in proto.output if name]
            if proto.op_type == "Constant":
                constants[used[0]] = _constant_value(proto)
                continue
            check_types(proto, types)
            source = [alias.get(name, name) for name in proto.input]
            if proto.op_type == "Identity" and used[0] not in outputs:
                alias[used[0]] = source[0]
                result.changed.append(f"{proto.name or used[0]}: Identity removed")
                continue
            if proto.op_type == "Identity" and source[0] in constants:
                raise UnsupportedModelError(f"output {used[0]} is a constant")
            if len(used) != 1:
                raise UnsupportedModelError(
                    f"node {label_of(proto)}: {proto.op_type} with {len(used)} outputs",
                    valid="one output a node (batch norm in inference form)",
                )
            nodes.append(Node(proto.op_type, source, used[0], attributes_of(proto), proto.name))
        nodes = topological(nodes, set(inputs) | set(constants))
        graph = Graph(
            model.graph.name or "model",
            inputs,
            outputs,
            nodes,
            shapes,
            constants,
            manifest=read_manifest(model),
            names=Names(_all_names(model)),
        )
        for name, kind in inputs.items():
            low, high = (-128, 127) if kind == TensorProto.INT8 else (0, 255)
            graph.ranges[name] = Interval.uniform(shapes[name][1], low, high)
        dead = graph.remove_dead()
        result.changed += [f"{node.label}: {node.op} that nothing reads, removed" for node in dead]
        _check_maps(graph)
        graph.nodes = [windowed(graph, node) if node.op in WINDOWED else node for node in graph.nodes]
        return graph, result


def _all_names(model: ModelProto) -> set[str]:
    """Every tensor name of the file, also of what is folded or dropped: reports still use them."""
    names = {value.name for value in [*model.graph.input, *model.graph.output]}
    names |= {tensor.name for tensor in model.graph.initializer}
    return names | {name for node in model.graph.node for name in (*node.input, *node.output) if name}


def _check_maps(graph: Graph) -> None:
    """ShapeError where something computed from an image isn't a feature map."""
    computed = set(graph.inputs)
    for node in graph.nodes:
        if computed.intersection(node.inputs):
            computed.add(node.output)
            check_map(node.output, graph.shapes[node.output])


def _constant_value(proto: onnx.NodeProto) -> np.ndarray:
    for attribute in proto.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        if attribute.name == "value":
            return numpy_helper.to_array(value)
        if attribute.name in ("value_float", "value_floats"):
            return np.array(value, dtype=np.float32)
        if attribute.name in ("value_int", "value_ints"):
            return np.array(value, dtype=np.int64)
    raise UnsupportedModelError(f"constant {proto.output[0]} is neither a tensor nor numbers")
