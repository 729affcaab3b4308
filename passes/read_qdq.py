"""Reads a QDQ ONNX file into the graph that the other passes rewrite."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, numpy_helper

from aqd_deploy.detection.interface import check_interface
from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.integer.manifest import read_manifest
from aqd_deploy.integer.ranges import Interval
from aqd_deploy.passes.canonical.islands import unknown_operators
from aqd_deploy.passes.contract import Lowering, Pass, PassError, PassResult, none_left
from aqd_deploy.passes.geometry import pixel_strides
from aqd_deploy.passes.graph import Graph, Node, topological
from aqd_deploy.passes.inference import check_map, infer
from aqd_deploy.passes.names import Names
from aqd_deploy.passes.operations import FileOperation
from aqd_deploy.passes.operators import OPERATORS, attributes_of, check_types, label_of


class ReadQdq(Pass):
    """The ONNX nodes as graph nodes of the same names.

        w ── Identity ── a ┐                           w ┐
        x ── MaxPool(auto_pad=SAME_UPPER) ── Conv ─ y  x ── MaxPool(pads) ── Conv(pads) ── y

    1. Initializers and `Constant` nodes become constants.
    2. `Identity` disappears; its readers read its input. One that is a graph output stays as an alias.
    3. What no output needs disappears.
    4. The rest is taken over with its attributes as typed operations (`operators.py`). Every input holds
       elements of a type that the operator's rule takes; windows of Conv and MaxPool get explicit pads, a
       Resize its whole factors.
    5. The manifest, if there is one, tells of this input and of these outputs.
    """

    name = "read_qdq"

    def requires(self, state: Lowering) -> None:
        """Operators that the table has."""
        unknown = unknown_operators(list(state.model.graph.node))
        if unknown:
            raise PassError(f"{unknown[0].op_type} {label_of(unknown[0])} is left")

    def ensures(self, state: Lowering) -> None:
        """Nodes in topological order, everything of a known shape, nothing as the file had it."""
        graph = state.graph
        none_left(graph, FileOperation)
        known = {*graph.inputs, *graph.constants}
        for node in graph.nodes:
            unread = [name for name in node.inputs if name and name not in known]
            if unread or node.output not in graph.shapes:
                raise PassError(f"{node.label} reads or makes a tensor that isn't known")
            known.add(node.output)

    def run(self, state: Lowering) -> PassResult:
        """ModelFileError for a damaged manifest, ShapeError for sizes that don't fit or are too large,
        UnsupportedModelError for element types or a number of outputs that no rule takes, and the errors of
        `check_interface`.
        """
        result = PassResult(self.name)
        model = state.model
        shapes, types = infer(model)
        constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        inputs = {
            value.name: value.type.tensor_type.elem_type
            for value in model.graph.input
            if value.name not in constants
        }
        outputs = [value.name for value in model.graph.output]
        nodes = _nodes(model, types, outputs, constants, result)
        nodes = topological(nodes, set(inputs) | set(constants))
        state.manifest = read_manifest(model)
        names = Names(_all_names(model))
        graph = Graph(model.graph.name or "model", inputs, outputs, nodes, shapes, constants, names=names)
        for name, kind in inputs.items():
            low, high = (-128, 127) if kind == TensorProto.INT8 else (0, 255)
            graph.ranges[name] = Interval.uniform(shapes[name][1], low, high)
        dead = graph.remove_dead()
        result.changed += [f"{node.label}: {node.op.name} that nothing reads, removed" for node in dead]
        _check_maps(graph)
        graph.nodes = [_typed(graph, node) for node in graph.nodes]
        state.graph = graph
        _check_manifest(state)
        return result


def _nodes(
    model: ModelProto,
    types: dict[str, int],
    outputs: list[str],
    constants: dict[str, np.ndarray],
    result: PassResult,
) -> list[Node]:
    """Cases 1 and 2: the nodes as the file has them; `constants` gets those of Constant nodes."""
    alias: dict[str, str] = {}
    nodes: list[Node] = []
    for proto in model.graph.node:
        used = [name for name in proto.output if name]
        if proto.op_type == "Constant":
            constants[used[0]] = _constant_value(proto)
            continue
        check_types(proto, types)
        source = [alias.get(name, name) for name in proto.input]
        if proto.op_type == "Identity":
            if used[0] not in outputs:
                alias[used[0]] = source[0]
                result.changed.append(f"{proto.name or used[0]}: Identity removed")
                continue
            if source[0] in constants:
                raise UnsupportedModelError(f"output {used[0]} is a constant")
            result.left_alone.append(f"{proto.name or used[0]}: the graph's output has its name by Identity")
        if len(used) != 1:
            raise UnsupportedModelError(
                f"node {label_of(proto)}: {proto.op_type} with {len(used)} outputs",
                valid="one output a node (batch norm in inference form)",
            )
        operation = FileOperation(proto.op_type, attributes_of(proto))
        nodes.append(Node(operation, source, used[0], proto.name))
    return nodes


def _typed(graph: Graph, node: Node) -> Node:
    """Case 4."""
    assert isinstance(node.op, FileOperation), "made by _nodes"
    entry = OPERATORS[node.op.op_type]
    assert entry.read is not None, "no node is made of the others"
    operation = entry.read(graph, node, node.op.attributes)
    return Node(operation, node.inputs[: entry.data], node.output, node.source)


def _check_manifest(state: Lowering) -> None:
    """Case 5."""
    graph = state.graph
    inputs, outputs = (
        {name: graph.shapes[name] for name in names} for names in (graph.inputs, graph.outputs)
    )
    detects = state.manifest.get("detector") is not None
    check_interface(state.manifest, inputs, outputs, pixel_strides(graph) if detects else None)


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
