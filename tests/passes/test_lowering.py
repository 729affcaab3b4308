"""Whole lowerings: forms of other exporters, the report, and that the integers mean what the file says."""

import json

import numpy as np
import pytest
from onnx import TensorProto, helper
from qdq_graphs import QdqBuilder, random_graph, random_image
from small_lowerings import assert_agrees, chain

from aqd_deploy.integer.inspect import float_tensors
from aqd_deploy.integer.reference import ReferenceRunner
from aqd_deploy.passes.pipeline import lower


def foreign_relu6(b, x):
    bounds = [b.constant("bound", np.array(v, dtype=np.float32)) for v in (0, 6)]
    return b.conv(b.quantize(b.node("Clip", [x, *bounds]), 8, 0.05), 4, 7, odd=False)


def foreign_signed(b, x):
    return b.conv(b.quantize(x, 8, 0.03, signed=True), 4, 7, odd=False, per_channel=True)


def foreign_add_of_quantized(b, x):
    y = b.quantize(x, 8, 0.03, signed=True)
    z = b.quantize(b.relu(x), 8, 0.011)
    return b.conv(b.quantize(b.add(y, z), 8, 0.05, signed=True), 4, 7, odd=False)


def foreign_zero_point(b, x):
    scale = b.constant("step", np.array(0.03, dtype=np.float32))
    zero = b.constant("zero", np.array(101, dtype=np.uint8))
    q = b.node("QuantizeLinear", [x, scale, zero])
    return b.conv(b.node("DequantizeLinear", [q, scale, zero]), 4, 7, odd=False)


def foreign_pool_of_integers(b, x):
    scale = b.constant("step", np.array(0.03, dtype=np.float32))
    zero = b.constant("zero", np.array(0, dtype=np.uint8))
    q = b.max_pool(b.node("QuantizeLinear", [x, scale, zero]))
    return b.conv(b.node("DequantizeLinear", [q, scale, zero]), 4, 7, odd=False)


def foreign_float_weights(b, x):
    """Weights as a float constant behind QuantizeLinear, as some exporters leave them."""
    values = b.rng.normal(0, 0.2, (4, 4, 3, 3)).astype(np.float32)
    scale = b.constant("step_w", np.full(4, 0.004, dtype=np.float32))
    zero = b.constant("zero_w", np.zeros(4, dtype=np.int8))
    q = b.node("QuantizeLinear", [b.constant("weight", values), scale, zero], axis=0)
    w = b.node("DequantizeLinear", [q, scale, zero], axis=0)
    return b.conv(b.quantize(x, 8, 0.02), 4, 8, weights=w)


def quantized_output(b, x):
    return b.quantize(x, 8, 0.03)


def constant_added(b, x):
    return b.node("Add", [x, b.constant("offset", np.full((1, 4, 1, 1), 0.37, dtype=np.float32))])


@pytest.mark.parametrize(
    "body",
    [
        foreign_relu6,
        foreign_signed,
        foreign_add_of_quantized,
        foreign_zero_point,
        foreign_pool_of_integers,
        foreign_float_weights,
        quantized_output,
        constant_added,
    ],
)
def test_foreign_forms(body):
    qdq = chain(body, seed=21)
    result = lower(qdq)
    assert float_tensors(result.model) == []
    assert_agrees(qdq, result)


def test_report_is_json_and_complete():
    qdq = random_graph(8, bits=4)
    seen = []
    result = lower(qdq, on_pass=seen.append)
    report = json.loads(json.dumps(result.report))
    assert [entry["pass"] for entry in report["passes"]] == [r.name for r in seen]
    assert report["proven_share"] == 1.0 and report["float_tensors"] == 0
    names = [node.output[0] for node in result.model.graph.node]
    assert set(names) == report["ranges"].keys()
    assert {entry["output"] for entry in report["requantizations"]} == {
        node.output[0] for node in result.model.graph.node if node.op_type in ("Requantize", "Threshold")
    }
    for entry in report["requantizations"]:
        assert entry["channels"] == entry["proven"] and entry["deviations"] == 0
    for entry in report["skip_adds"]:
        assert 0 < entry["error_bound"] <= entry["accumulated_error_bound"]


def test_lowering_is_deterministic_and_leaves_its_input_alone():
    qdq = random_graph(12)
    before = qdq.SerializeToString(deterministic=True)
    first, second = lower(qdq).model, lower(qdq).model
    assert qdq.SerializeToString(deterministic=True) == before
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)


def test_a_weight_that_is_also_a_real_constant():
    """A float tensor that is quantized for a convolution, and added as it is elsewhere."""
    b = QdqBuilder(1)
    x = b.image([0, 0, 0])
    w = b.constant("w", np.array([0.5, -1.25, 0.75], np.float32).reshape(1, 3, 1, 1))
    scale, zero = b.constant("scale", np.float32(0.25)), b.constant("zero", np.int8(0))
    q = b.node("DequantizeLinear", [b.node("QuantizeLinear", [w, scale, zero]), scale, zero])
    b.output(b.node("Conv", [x, q], (1, 8, 8)), "conv")
    b.output(b.quantize(b.node("Add", [x, w], (3, 8, 8)), 8, 2.0), "sum")
    model = b.build()
    integer, image = lower(model).model, {"image": random_image(model, 0)}
    expected, got = ReferenceRunner(model, 1).run(image), ReferenceRunner(integer, 1).run(image)
    assert np.array_equal(got["sum"] * 2.0, expected["sum"])
    assert np.array_equal(got["conv"] * 0.25, expected["conv"])


def test_names_that_grow_with_every_node_they_are_moved_in_front_of():
    b = QdqBuilder(1, 64, 64)
    x = b.relu(b.conv(b.image(), 4, 8))
    for _ in range(8):
        x = b.node("MaxPool", [x], b.shape[x], kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1])
    x = b.quantize(x, 4)
    b.output(b.conv(x, 4, 4), "out")
    model = b.build()
    old = next(node for node in model.graph.node if node.op_type == "QuantizeLinear").output[0]
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = ["n" * 230 if name == old else name for name in names]
    lower(model)


def test_a_clip_of_a_bfloat16_constant_keeps_its_fraction():
    b = QdqBuilder(1)
    bf16 = helper.make_tensor("half", TensorProto.BFLOAT16, [1], [0.75])
    bounds = [helper.make_tensor(f"bound{v}", TensorProto.BFLOAT16, [], [v]) for v in (0.0, 6.0)]
    scale = helper.make_tensor("unit", TensorProto.BFLOAT16, [], [1.0])
    b.initializers += [bf16, *bounds, scale]
    x = b.node("DequantizeLinear", ["image", "unit"])
    x = b.node("Add", [x, b.node("Clip", ["half", "bound0.0", "bound6.0"])], b.shape["image"])
    x = b.node("QuantizeLinear", [x, "unit"])
    b.output(b.node("DequantizeLinear", [x, "unit"], b.shape["image"]), "out")
    model = b.build()
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.BFLOAT16
    image = {"image": random_image(model, 0)}
    got = ReferenceRunner(lower(model).model, 1).run(image)["out"]
    assert np.array_equal(got, np.minimum(image["image"].astype(np.int32) + 1, 255))
