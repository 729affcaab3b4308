"""What the first pass does as a whole, case by case; tests/passes/canonical has the rewrites."""

import hashlib
import json

import numpy as np
import onnx
from onnx import TensorProto, helper
from qdq_graphs import QdqBuilder, random_graph
from small_lowerings import chain, manifest_of, state_after

from aqd_deploy.passes.pipeline import lower


def float_image(*steps):
    """A float image with a quantizer, a convolution, and `steps` behind it."""
    b = QdqBuilder(3)
    b.inputs[0] = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 8, 8])
    x = b.conv(b.quantize("image", 8, 0.5), 4, 8, odd=False)
    for step in steps:
        x = step(b, x)
    b.output(x, "out")
    model = b.build()
    del model.metadata_props[:]
    return model


def test_case_1_a_shape_is_set_before_anything_is_inferred():
    state = state_after("canonicalise", float_image(), shape=[1, 3, 16, 12])
    dims = state.model.graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_value for dim in dims] == [1, 3, 16, 12]


def test_case_2_a_canonical_file_stays_as_it_is():
    model = random_graph(4)
    before = onnx.ModelProto()
    before.CopyFrom(model)
    state = state_after("canonicalise", model)
    assert not state.results[0].changed and state.tail is None
    assert list(state.model.graph.node) == list(before.graph.node)
    assert state.model.metadata_props == before.metadata_props


def test_case_3_the_manifest_is_made_and_the_tail_has_its_hash():
    state = state_after("canonicalise", float_image(lambda b, x: b.node("Sigmoid", [x])))
    manifest = manifest_of(state.model)
    assert manifest["schema"] == 1 and manifest["name"] == "random_qdq"
    assert manifest["inputs"] == {"image": {"scale": 0.5, "zero_point": 0, "dtype": "uint8"}}
    (source,) = [value.name for value in state.tail.graph.input]
    data = state.tail.SerializeToString(deterministic=True)
    assert manifest["tail"] == {"inputs": {source: {}}, "sha256": hashlib.sha256(data).hexdigest()}


def test_case_3_a_manifest_that_is_there_keeps_its_entries():
    model = float_image()
    helper.set_model_props(model, {"aqd.manifest": json.dumps({"schema": 1, "name": "mine", "note": 7})})
    manifest = manifest_of(state_after("canonicalise", model).model)
    assert manifest["name"] == "mine" and manifest["note"] == 7 and "image" in manifest["inputs"]


def test_case_4_an_integer_file_and_a_damaged_one_stay():
    integer = lower(chain()).model
    state = state_after_first(integer)
    assert state.results[0].left_alone[-1] == "the file is integer ONNX"
    damaged = chain()
    damaged.graph.node[0].input[0] = "nowhere"
    assert "isn't valid" in state_after_first(damaged).results[0].left_alone[-1]


def state_after_first(model):
    return state_after("canonicalise", model)


def test_the_callers_model_is_untouched():
    model = float_image()
    before = model.SerializeToString(deterministic=True)
    lower(model)
    assert model.SerializeToString(deterministic=True) == before
    assert np.all([value.type.tensor_type.elem_type == TensorProto.FLOAT for value in model.graph.input])
