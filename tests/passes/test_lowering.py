"""What single passes make of small graphs, and that the integers mean what the QDQ file says."""

import json

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from qdq_graphs import QdqBuilder, plain_graph, random_graph, random_image

from aqd_deploy.integer.inspect import float_tensors
from aqd_deploy.integer.reference import ReferenceRunner
from aqd_deploy.passes import solve_requantize
from aqd_deploy.passes.pipeline import lower


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
        assert got[name].dtype == np.int32
        assert entry["lo"] <= got[name].min() and got[name].max() <= entry["hi"]
        scale = np.array(entry["scale"]).reshape(1, -1, 1, 1)
        bound = result.report["output_errors"][name] * scale + tolerance * np.abs(expected[name]).max()
        assert (np.abs(got[name] * scale - expected[name]) <= bound).all(), name


def chain(*steps, seed=5, bits=4):
    """image → 8-bit conv → BN → steps → output."""
    b = QdqBuilder(seed)
    x = b.batch_norm(b.conv(b.image(), 4, 8), "positive")
    for step in steps:
        x = step(b, x)
    b.output(x, "out")
    return b.build()


def test_shared_head_keeps_one_weight_initializer():
    """Two levels share three convolutions: six ConvInteger or ConvOdd nodes, three weight tensors."""
    seed = next(
        s for s in range(50) if sum(o.name.startswith("cls") for o in random_graph(s).graph.output) == 2
    )
    model = lower(random_graph(seed, bits=4)).model
    outputs = {node.output[0]: node for node in model.graph.node}
    users = {}
    for node in model.graph.node:
        if node.op_type in ("ConvInteger", "ConvOdd"):
            users.setdefault(node.input[1], []).append(node)
    shared = {name: nodes for name, nodes in users.items() if len(nodes) > 1}
    assert sorted(len(nodes) for nodes in shared.values()) == [2, 2, 2]
    assert len({name for name in shared if name in initializers(model)}) == 3
    assert all(f"{kind}_p{level}" in outputs for kind in ("cls", "box") for level in (3, 4))


def test_image_means_become_padding_and_offset():
    model = lower(chain(lambda b, x: b.relu(x))).model
    pad = next(node for node in model.graph.node if node.op_type == "PadImage")
    assert initializers(model)[pad.input[1]].ravel().tolist() == [104, 116, 124]
    conv = next(node for node in model.graph.node if node.op_type == "ConvOdd")
    assert next(list(a.ints) for a in conv.attribute if a.name == "pads") == [0, 0, 0, 0]
    assert conv.input[0] == pad.output[0]


def test_image_with_mean_zero_needs_no_padding_node():
    b = QdqBuilder(2)
    b.output(b.conv(b.image([0, 0, 0]), 4, 8), "out")
    qdq = b.build()
    result = lower(qdq)
    assert "PadImage" not in operators(result.model)
    assert_agrees(qdq, result)


def test_relu_in_front_of_a_quantizer_is_its_lower_clip():
    def body(b, x):
        return b.conv(b.quantize(b.relu(x), 4), 4, 4)

    result = lower(chain(body))
    assert "Max" not in operators(result.model)
    requantize = next(node for node in result.model.graph.node if node.op_type == "Requantize")
    assert (attribute(requantize, "lo"), attribute(requantize, "hi")) == (0, 15)


def test_pooling_of_quantized_values_runs_on_8_bits():
    def body(b, x):
        x = b.max_pool(b.relu(x))
        return b.add(b.conv(b.quantize(x, 4, 0.1), 4, 4), b.conv(b.quantize(x, 4, 0.2), 4, 4))

    qdq = chain(body)
    result = lower(qdq)
    assert operators(result.model).count("MaxPool") == 2
    assert not any(op.startswith("MaxPool_") for op in operators(result.model))
    assert_agrees(qdq, result)


def test_pooling_of_a_stream_runs_once_on_int32():
    def body(b, x):
        x = b.max_pool(b.relu(x))
        return b.add(b.conv(b.quantize(x, 4), 4, 4), x)

    qdq = chain(body)
    result = lower(qdq)
    assert operators(result.model).count("MaxPool_k3s2p1") == 1
    assert "MaxPool" not in operators(result.model)
    explained = next(p for p in result.report["passes"] if p["pass"] == "commute_quantizers")
    assert any("MaxPool" in line and "stream" in line for line in explained["left_alone"])
    assert_agrees(qdq, result)


def test_equal_quantizers_of_one_tensor_are_one():
    def body(b, x):
        x = b.relu(x)
        return b.concat(b.conv(b.quantize(x, 4, 0.25), 4, 4), b.conv(b.quantize(x, 4, 0.25), 2, 4))

    qdq = chain(body)
    result = lower(qdq)
    assert operators(result.model).count("Requantize") == 1
    assert_agrees(qdq, result)


def test_level_scale_folds_into_the_output_scale():
    def body(factor):
        def build(b, x):
            return b.scale(b.conv(b.quantize(x, 4, 0.25), 4, 8), factor)

        return build

    plain, scaled = (lower(chain(body(f))).model for f in (1.0, 3.0))
    assert operators(plain) == operators(scaled)
    ratio = (
        np.array(manifest_of(scaled)["outputs"]["out"]["scale"])
        / manifest_of(plain)["outputs"]["out"]["scale"]
    )
    # Both scales are float64 of exact rationals.
    assert ratio == pytest.approx(3.0, rel=1e-15)


@pytest.mark.parametrize("gamma", ["positive", "mixed", "zero", "tiny", "hard"])
@pytest.mark.parametrize("order", [0, 1])
def test_skip_adds_with_every_kind_of_gamma(gamma, order):
    def body(b, x):
        x = b.relu(x)
        left = b.batch_norm(b.conv(b.quantize(x, 4), 4, 4), gamma)
        right = b.batch_norm(b.conv(b.quantize(x, 4), 4, 4, kernel=1), gamma)
        y = b.relu(b.add(*((left, right) if order else (right, left))))
        return b.add(y, x) if order else b.add(x, y)

    qdq = chain(body, seed=16)
    result = lower(qdq)
    assert operators(result.model).count("SkipAdd") == 2
    assert all(entry["error_bound"] < 1.5 for entry in result.report["skip_adds"])
    assert_agrees(qdq, result)


@pytest.mark.parametrize("gamma", ["zero", "tiny", "hard"])
def test_streams_without_a_skip_survive_every_gamma(gamma):
    """BN straight into an output: s = β/α would pass int32 where γ is tiny."""
    qdq = chain(lambda b, x: b.batch_norm(b.conv(b.quantize(x, 4), 4, 4), gamma), seed=12)
    result = lower(qdq)
    if gamma != "hard":
        assert "MultiplyShift" in operators(result.model)
        reason = {"zero": "constant in", "tiny": "coarser scale in"}[gamma]
        moves = next(p for p in result.report["passes"] if p["pass"] == "move_scales")
        assert any(reason in line for line in moves["changed"])
    assert_agrees(qdq, result)


def test_paper_numerics_rounds_every_bias_on_its_own():
    qdq = plain_graph(4, bits=4)
    exact, paper = lower(qdq), lower(qdq, numerics="paper")
    norms = sum(node.op_type == "BatchNormalization" for node in qdq.graph.node)
    settled = [entry for entry in paper.report["settled"] if entry["output"]]
    assert len(settled) >= norms
    assert len(exact.report["settled"]) < len(settled)
    assert manifest_of(paper.model)["lowering"]["numerics"] == "paper"


def test_power_of_two_numerics_has_multiplier_one():
    model = lower(random_graph(2, bits=4), numerics="power-of-two").model
    constants = initializers(model)
    for node in model.graph.node:
        if node.op_type == "Requantize":
            assert set(np.abs(constants[node.input[1]]).ravel().tolist()) <= {0, 1}
        if node.op_type == "SkipAdd":
            for name in (node.input[2], node.input[5]):
                values = np.abs(constants[name]).ravel()
                assert ((values & (values - 1)) == 0).all()


def test_thresholds_replace_constants_that_would_not_be_exact(monkeypatch):
    """With multipliers of 3 bits only, 4-bit channels need thresholds; every integer stays the same."""

    def body(b, x):
        x = b.batch_norm(b.conv(b.quantize(b.relu(x), 4), 4, 4), "mixed")
        return b.conv(b.quantize(b.relu(x), 4), 4, 4)

    qdq = chain(body)
    constants = lower(qdq)
    solve = solve_requantize.solve_requantize_channels
    monkeypatch.setattr(
        solve_requantize, "solve_requantize_channels", lambda s, **kw: solve(s, c_bits=3, **kw)
    )
    thresholds = lower(qdq)
    assert operators(constants.model).count("Threshold") == 0
    assert operators(thresholds.model).count("Threshold") == 2
    for entry in thresholds.report["requantizations"]:
        assert entry["proven"] == entry["channels"] and entry["deviations"] == 0
    for seed in range(5):
        image = {"image": random_image(qdq, seed)}
        expected, got = (
            ReferenceRunner(r.model, threads=1).run(image)["out"] for r in (constants, thresholds)
        )
        assert (expected == got).all()


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


def test_manifest_keeps_the_qdq_entries_and_gains_outputs_and_ranges():
    b = QdqBuilder(4)
    b.output(b.conv(b.image(), 4, 8), "cls_p3")
    result = lower(b.build({"schema": 1, "name": "mine", "bits": {"weights": 8}}))
    manifest = manifest_of(result.model)
    assert (manifest["name"], manifest["bits"]) == ("mine", {"weights": 8})
    assert manifest["outputs"].keys() == {"cls_p3"}
    assert manifest["ranges"]["image"] == {"lo": 0, "hi": 255}
    assert manifest["lowering"] == {
        "numerics": "exact",
        "requantized_channels": 0,
        "proven": 0,
        "proven_of_network": 0,
        "largest_input_error_steps": 0.0,
        "requantizations_count": 0,
        "equal_end_to_end": 0,
        "float_tensors": 0,
    }


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
