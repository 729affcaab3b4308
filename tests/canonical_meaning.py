"""Whether a rewritten file means what it meant: both in float64."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping

import numpy as np
import onnx
from float64_reference import Float64Network, quantize

from aqd_deploy.passes.canonicalise import Canonicalise
from aqd_deploy.passes.contract import Lowering


def canonical(model: onnx.ModelProto, shape=None) -> Lowering:
    """The state behind the first pass; the result is a valid file."""
    state = Lowering(copy.deepcopy(model), shape=shape)
    Canonicalise()(state)
    onnx.checker.check_model(state.model)
    onnx.shape_inference.infer_shapes(state.model, check_type=True, strict_mode=True, data_prop=True)
    if state.tail is not None:
        onnx.checker.check_model(state.tail)
    return state


def manifest_entry(model: onnx.ModelProto) -> dict:
    """`aqd.manifest`, {} where there is none."""
    return json.loads(next((e.value for e in model.metadata_props if e.key == "aqd.manifest"), "{}"))


def codes_of(model: onnx.ModelProto, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a float image becomes by the manifest's scale and zero point; other inputs as they are."""
    known = manifest_entry(model).get("inputs", {})
    feeds = dict(inputs)
    for name, entry in known.items():
        zero = np.array(entry["zero_point"], entry["dtype"])
        feeds[name] = quantize(inputs[name].astype(np.float64), np.float32(entry["scale"]), zero)
    return feeds


def outputs_of(state: Lowering, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs of the rewritten file and of its tail, in the shapes of the original."""
    values = Float64Network(state.model).outputs(codes_of(state.model, inputs))
    for name, shape in manifest_entry(state.model).get("shapes", {}).items():
        values[name] = values[name].reshape(shape)
    if state.tail is not None:
        read = {value.name: values[value.name] for value in state.tail.graph.input}
        values.update(Float64Network(state.tail).outputs(read))
    return values


def constant_outputs(model: onnx.ModelProto) -> set[str]:
    """Outputs that no input changes."""
    constant = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        if all(name in constant for name in node.input if name):
            constant.update(node.output)
    return constant & {value.name for value in model.graph.output}


def assert_same_meaning(model: onnx.ModelProto, inputs: Mapping[str, np.ndarray], shape=None) -> Lowering:
    """Every output of `model` in float64, before and behind the first pass. Sums run in another order, so
    they are compared to 1e-9; a code that differs is a step away, far more.
    """
    state = canonical(model, shape)
    expected, got = Float64Network(model).outputs(inputs), outputs_of(state, inputs)
    assert got.keys() >= expected.keys() - constant_outputs(model)
    for name in expected.keys() & got.keys():
        # Rewrites sum in another order: float64 loses some last digits.
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-9, atol=1e-9, err_msg=name)
    return state
