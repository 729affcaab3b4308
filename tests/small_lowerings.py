"""Small QDQ graphs, lowered as far as a test wants, and the questions that tests ask of them."""

import json

import numpy as np
from onnx import numpy_helper
from qdq_graphs import QdqBuilder, random_image

from aqd_deploy.integer.reference import ReferenceRunner
from aqd_deploy.passes.contract import Lowering, PassResult
from aqd_deploy.passes.move_scales import propagate
from aqd_deploy.passes.pipeline import PASSES
from aqd_deploy.passes.values import Values


def state_after(name, model, numerics="exact", shape=None):
    """The state that the pass of this name leaves of the model."""
    state = Lowering(model, numerics, shape)
    for each in PASSES:
        each(state)
        if each.name == name:
            return state
    raise AssertionError(f"no pass {name}")


def state_before(name, model, numerics="exact"):
    """The state that the pass of this name finds."""
    names = [each.name for each in PASSES]
    return state_after(names[names.index(name) - 1], model, numerics)


def values_of(model, numerics="exact"):
    """What every real tensor is, once the rules have moved past all nodes."""
    state = state_before("move_scales", model, numerics)
    values = Values(state.graph, numerics, PassResult("values"))
    propagate(values)
    return values


def nodes_of(state, kind):
    """The graph's nodes of one kind of operation, in order."""
    return [node for node in state.graph.nodes if isinstance(node.op, kind)]


def producer(state, node, index=0):
    """The node that makes an input of `node`."""
    return state.graph.producers()[node.inputs[index]]


def operators(model):
    return [node.op_type for node in model.graph.node]


def initializers(model):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def manifest_of(model):
    return json.loads(model.metadata_props[0].value)


def attribute(node, name):
    return next(a.i for a in node.attribute if a.name == name)


def assert_agrees(qdq, result, seed=0, tolerance=1e-4):
    """Heads against onnxruntime on the float file.

    The tolerance is for float32 in the QDQ run; it is relative to the largest output, far below one step.
    """
    image = {"image": random_image(qdq, seed)}
    expected = ReferenceRunner(qdq, threads=1).run(image)
    got = ReferenceRunner(result.model, threads=1).run(image)
    for name, entry in manifest_of(result.model)["outputs"].items():
        assert str(got[name].dtype) == ("int32" if "zero_point" not in entry else "uint8")
        assert entry["lo"] <= got[name].min() and got[name].max() <= entry["hi"]
        scale = np.array(entry["scale"]).reshape(1, -1, 1, 1)
        bound = result.report["output_errors"][name] * scale + tolerance * np.abs(expected[name]).max()
        assert (np.abs((got[name] - entry.get("zero_point", 0)) * scale - expected[name]) <= bound).all(), (
            name
        )


def chain(*steps, seed=5, bits=4):
    """image → 8-bit conv → BN → steps → output."""
    b = QdqBuilder(seed)
    x = b.batch_norm(b.conv(b.image(), 4, 8), "positive")
    for step in steps:
        x = step(b, x)
    b.output(x, "out")
    return b.build()
