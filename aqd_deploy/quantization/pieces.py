"""Parts of a file as models of their own: its layers one beside the other, and its constants."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import ModelProto, NodeProto, TensorProto, helper

from aqd_deploy.passes.canonical.draft import Draft, copy_of
from aqd_deploy.quantization.layers import Match


def port_of(index: int, kind: str = "in") -> str:
    """How `layers_alone` names what layer `index` reads ("in") and makes ("out")."""
    return f"layer{index}.{kind}"


def layers_alone(draft: Draft, matches: Sequence[Match]) -> ModelProto:
    """Every quantized layer of `matches`, up to where it is compared, each with an input of its own: floats
    of its input's shape, whatever they went through before.
    """
    producers = draft.producers()
    nodes: list[NodeProto] = []
    inputs, outputs = [], []
    for index, match in enumerate(matches):
        end, first = match.outputs[0], match.quantized.product
        chain = [producers[end]]
        while chain[0].output[0] != first:
            chain.insert(0, next(producers[name] for name in chain[0].input if name in producers))
        renamed = {match.quantized.input: port_of(index), end: port_of(index, "out")}
        renamed |= {each.output[0]: f"layer{index}.{place}" for place, each in enumerate(chain[:-1])}
        for each in chain:
            copy = copy_of(each)
            for side in (copy.input, copy.output):
                side[:] = [renamed.get(name, name) for name in side]
            nodes.append(copy)
        shape = draft.shapes[match.quantized.input]
        inputs.append(helper.make_tensor_value_info(port_of(index), TensorProto.FLOAT, shape))
        outputs.append(helper.make_empty_tensor_value_info(port_of(index, "out")))
    return _model(draft, nodes, inputs, outputs)


def value_of(name: str) -> str:
    """How `constants_of` names a constant."""
    return f"{name}.value"


def constants_of(draft: Draft, names: Sequence[str]) -> ModelProto:
    """A model without inputs that makes these constants."""
    nodes = [helper.make_node("Identity", [name], [value_of(name)]) for name in names]
    return _model(draft, nodes, [], [helper.make_empty_tensor_value_info(value_of(name)) for name in names])


def _model(draft: Draft, nodes: list[NodeProto], inputs: list, outputs: list) -> ModelProto:
    """`nodes` with the constants that they read, and what makes these of initializers."""
    read = {name for node in nodes for name in node.input}
    constant = draft.constants()
    own: list[NodeProto] = []
    for node in reversed(draft.nodes):
        if read.intersection(node.output) and constant.issuperset(node.output):
            own.insert(0, node)
            read.update(node.input)
    initializers = [tensor for name, tensor in draft.initializers.items() if name in read]
    graph = helper.make_graph([*own, *nodes], "pieces", inputs, outputs, initializers)
    return helper.make_model(graph, opset_imports=draft.model.opset_import, ir_version=draft.model.ir_version)
