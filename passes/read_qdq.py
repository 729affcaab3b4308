"""Reads a QDQ ONNX file into the graph that the other passes rewrite."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import ModelProto, numpy_helper

from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.integer.manifest import read_manifest
from aqd_deploy.passes.check_model import infer_shapes
from aqd_deploy.passes.graph import Graph, Node, PassResult, topological


class ReadQdq:
    """The ONNX nodes as graph nodes of the same names.

    1. Initializers and `Constant` nodes become constants.
    2. `Identity` disappears; its readers read its input. One that is a graph output stays as an alias.
    3. The rest is taken over with its attributes.
    """

    name = "read_qdq"
    requires = "a model that check_model passed"
    ensures = "nodes in topological order; every tensor has a static shape"

    def run(self, model: ModelProto) -> tuple[Graph, PassResult]:
        """The graph of `model`; ModelFileError for a damaged manifest, UnsupportedModelError for several
        outputs.
        """
        result = PassResult(self.name)
        shapes = infer_shapes(model)
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
            source = [alias.get(name, name) for name in proto.input]
            if proto.op_type == "Identity" and used[0] not in outputs:
                alias[used[0]] = source[0]
                result.changed.append(f"{proto.name or used[0]}: Identity removed")
                continue
            if proto.op_type == "Identity" and source[0] in constants:
                raise UnsupportedModelError(f"output {used[0]} is a constant")
            if len(used) != 1:
                raise UnsupportedModelError(
                    f"node {proto.name or used[0]}: {proto.op_type} with {len(used)} outputs",
                    valid="one output a node (batch norm in inference form)",
                )
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in proto.attribute}
            attributes = {k: v.decode() if isinstance(v, bytes) else v for k, v in attributes.items()}
            nodes.append(Node(proto.op_type, source, used[0], attributes, proto.name))
        nodes = topological(nodes, set(inputs) | set(constants))
        graph = Graph(
            model.graph.name or "model",
            inputs,
            outputs,
            nodes,
            shapes,
            constants,
            manifest=read_manifest(model),
        )
        dead = graph.remove_dead()
        result.changed += [f"{node.label}: {node.op} that nothing reads, removed" for node in dead]
        return graph, result


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
