"""A model while it is rewritten: its nodes and constants, and the questions that rewrites ask of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, helper, numpy_helper

from aqd_deploy.passes.names import Names
from aqd_deploy.passes.operators import attributes_of

STANDARD = ("", "ai.onnx")
"""ONNX's own domain has two names."""

Rule = Callable[[NodeProto], "list[NodeProto] | None"]


class Draft:
    """One model; `model` is only right after `write`.

    `changed` says what was done, a sentence each. `manifest` is what the rewrites learned of inputs and
    outputs, `tail` what was cut off.
    """

    def __init__(self, model: ModelProto) -> None:
        self.changed: list[str] = []
        self.manifest: dict[str, Any] = {}
        self.tail: ModelProto | None = None
        self.load(model)

    def load(self, model: ModelProto) -> None:
        """Begins again with another model."""
        self.model = model
        self._nodes = list(model.graph.node)
        self.initializers = {tensor.name: tensor for tensor in model.graph.initializer}
        self.names = Names(_names(model))
        self._inferred: tuple[dict[str, tuple[int, ...]], dict[str, int]] | None = None

    @property
    def nodes(self) -> list[NodeProto]:
        """In topological order; set as a whole."""
        return self._nodes

    @nodes.setter
    def nodes(self, nodes: Iterable[NodeProto]) -> None:
        self._nodes = list(nodes)
        self._inferred = None

    @property
    def opset(self) -> int:
        """The version of ONNX's own operators, 0 where the file imports none."""
        return max(
            (entry.version for entry in self.model.opset_import if entry.domain in STANDARD), default=0
        )

    @property
    def inputs(self) -> list[str]:
        """Inputs that are not initializers."""
        return [value.name for value in self.model.graph.input if value.name not in self.initializers]

    @property
    def outputs(self) -> list[str]:
        """The graph's outputs."""
        return [value.name for value in self.model.graph.output]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Static shapes, as far as they are known."""
        return self._infer()[0]

    @property
    def types(self) -> dict[str, int]:
        """Element types (onnx.TensorProto), as far as they are known."""
        return self._infer()[1]

    def array(self, name: str) -> np.ndarray | None:
        """The values of an initializer, None for any other tensor."""
        tensor = self.initializers.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def constant(self, base: str, values: np.ndarray) -> str:
        """A new initializer."""
        name = self.names.fresh(base)
        self.set_constant(name, values)
        return name

    def constants(self) -> set[str]:
        """Initializers and what nodes make of them."""
        constant = set(self.initializers)
        for node in self.nodes:
            if all(name in constant for name in node.input if name):
                constant.update(filter(None, node.output))
        return constant

    def scalar(self, base: str, value: float) -> str:
        """A new float32 initializer of no dimensions."""
        return self.constant(base, np.array(value, dtype=np.float32))

    def set_constant(self, name: str, values: np.ndarray) -> None:
        """The initializer of that name."""
        self.initializers[name] = numpy_helper.from_array(np.asarray(values, order="C"), name)
        self._inferred = None

    def node(
        self, op_type: str, inputs: Iterable[str], output: str = "", *, like: NodeProto, **attributes: Any
    ) -> NodeProto:
        """A node for what `like` did, under its name; with a new output unless one is given."""
        output = output or self.names.fresh(f"{next(filter(None, like.output), op_type)}_{op_type}")
        return helper.make_node(op_type, list(inputs), [output], name=like.name or output, **attributes)

    def rewrite(self, rule: Rule) -> None:
        """Replaces every node by what `rule` makes of it; None leaves it."""
        nodes: list[NodeProto] = []
        for node in self.nodes:
            made = rule(node)
            nodes += [node] if made is None else made
        self.nodes = nodes

    def producers(self) -> dict[str, NodeProto]:
        """Tensor name to the node that makes it."""
        return {name: node for node in self.nodes for name in node.output if name}

    def readers(self) -> dict[str, list[NodeProto]]:
        """Tensor name to the nodes that read it."""
        table: dict[str, list[NodeProto]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(filter(None, node.input)):
                table.setdefault(name, []).append(node)
        return table

    def substitute(self, alias: Mapping[str, str]) -> None:
        """Lets readers of each key read its value, which may be a key itself; a graph output of that name
        stays, by Identity.
        """
        if not alias:
            return

        def target(name: str) -> str:
            while name in alias:
                name = alias[name]
            return name

        for node in self.nodes:
            for index, name in enumerate(node.input):
                node.input[index] = target(name)
        kept = [name for name in self.outputs if name in alias]
        self.nodes = [*self.nodes, *(helper.make_node("Identity", [target(n)], [n], name=n) for n in kept)]

    def rename(self, names: Mapping[str, str]) -> None:
        """Other names for tensors that nodes make."""
        for node in self.nodes:
            for each in (node.input, node.output):
                each[:] = [names.get(name, name) for name in each]
        self._inferred = None

    def remove_dead(self) -> list[NodeProto]:
        """Drops nodes and initializers that no output needs; returns the nodes."""
        wanted = set(self.outputs)
        kept: list[NodeProto] = []
        dead: list[NodeProto] = []
        for node in reversed(self.nodes):
            if wanted.intersection(filter(None, node.output)):
                wanted.update(node.input)
                kept.append(node)
            else:
                dead.append(node)
        self.nodes = kept[::-1]
        self.initializers = {name: tensor for name, tensor in self.initializers.items() if name in wanted}
        return dead

    def write(self) -> ModelProto:
        """The model as it stands. What was inferred before belongs to other nodes, and goes."""
        self._fill()
        del self.model.graph.value_info[:]
        return self.model

    def _fill(self) -> None:
        graph = self.model.graph
        del graph.node[:], graph.initializer[:]
        graph.node.extend(self._nodes)
        graph.initializer.extend(self.initializers.values())
        # A message is copied into a graph; those of the graph are the ones that rules change from here on.
        self._nodes = list(graph.node)

    def _infer(self) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
        if self._inferred is None:
            self._fill()
            self._inferred = _inferred(self.model)
        return self._inferred


def _inferred(model: ModelProto) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    """Shapes and types as far as onnx can tell; the passes infer again, strictly."""
    try:
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError):
        graph = model.graph
    shapes: dict[str, tuple[int, ...]] = {}
    types: dict[str, int] = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        types[value.name] = tensor.elem_type
        if tensor.HasField("shape") and all(d.HasField("dim_value") for d in tensor.shape.dim):
            shapes[value.name] = tuple(d.dim_value for d in tensor.shape.dim)
    for constant in graph.initializer:
        types[constant.name] = constant.data_type
        shapes[constant.name] = tuple(constant.dims)
    return shapes, types


def _names(model: ModelProto) -> set[str]:
    graph = model.graph
    names = {each.name for each in (*graph.input, *graph.output, *graph.initializer)}
    return names | {name for node in graph.node for name in (*node.input, *node.output) if name}


def is_standard(node: NodeProto, *op_types: str) -> bool:
    """Whether a node is one of ONNX's own operators of these names."""
    return node.domain in STANDARD and node.op_type in op_types


def attribute(node: NodeProto, name: str, absent: Any = None) -> Any:
    """One attribute's value."""
    return attributes_of(node).get(name, absent)


def copy_of(node: NodeProto) -> NodeProto:
    """A node that can be changed."""
    copy = NodeProto()
    copy.CopyFrom(node)
    return copy
