"""The form of the convolutions that no CPU saturates gives the same integers."""

import numpy as np
import pytest
from odd_graphs import inputs_of, int8_image
from onnx import helper
from qdq_graphs import QdqBuilder, random_graph, random_image

from aqd_deploy.integer import saturation
from aqd_deploy.integer.reference import ReferenceRunner
from aqd_deploy.passes.pipeline import lower


@pytest.mark.parametrize("seed", range(4))
def test_unsigned_weights_are_the_same_network(seed):
    """8-bit odd weights and plain ones, in and outside of ConvOdd."""
    qdq = random_graph(seed, bits=(8, 4)[seed % 2])
    model = lower(qdq).model
    image = {"image": random_image(qdq, seed)}
    plain = ReferenceRunner(model, threads=1, unsigned_weights=False).run(image)
    unsigned = ReferenceRunner(model, threads=1, unsigned_weights=True, with_intermediates=True).run(image)
    assert all((plain[name] == unsigned[name]).all() for name in plain)


def test_its_names_make_room_for_those_of_the_model():
    """Tensors and weights may have the names that the rewritten convolutions would like."""
    b = QdqBuilder(1)
    x = b.conv(b.image([0, 0, 0]), 4, 8)
    y = b.conv(b.quantize(x, 8, 0.05), 4, 7, odd=False)
    b.output(y, "out")
    model = lower(b.build()).model
    odd = next(node for node in model.graph.node if node.op_type == "ConvOdd").output[0]
    plain = next(node for node in model.graph.node if node.op_type == "ConvInteger")
    codes = plain.input[0]
    names = {codes: f"{odd}_half", plain.input[1]: "aqd_weight_zero_point"}
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for tensor in model.graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    image = {"image": np.random.default_rng(0).integers(0, 256, (1, 3, 8, 8), dtype=np.uint8)}
    outputs = [ReferenceRunner(model, 1, unsigned_weights=flag).run(image)["out"] for flag in (False, True)]
    assert (outputs[0] == outputs[1]).all() and np.ptp(outputs[0]) > 0


@pytest.mark.parametrize("zero", [-128, -14, 5])
def test_signed_codes_with_a_zero_point(zero):
    model = lower(int8_image(zero)).model
    assert _same(model)


def test_extreme_weights_and_pixels():
    """255 · ±127 in every tap: where 16 bits would saturate first."""
    b = QdqBuilder(0, 4, 4)
    b.output(b.conv(b.image([0, 0, 0]), 2, 7), "out")
    model = lower(b.build()).model
    weights = next(t for t in model.graph.initializer if t.data_type == 3)
    values = np.full(tuple(weights.dims), 127, dtype=np.int8)
    values[1] = -127
    weights.raw_data = values.tobytes()
    image = {"image": np.full((1, 3, 4, 4), 255, dtype=np.uint8)}
    out = ReferenceRunner(model, unsigned_weights=True, with_intermediates=True).run(image)
    accumulators = next(v for name, v in out.items() if v.dtype == np.int32)
    assert np.abs(accumulators).max() >= 255 * 127 * 27


def test_extreme_weights_and_signed_codes():
    """Of s8 codes it is u8 weights that saturate: these stay as they are."""
    model = lower(int8_image(0)).model
    weights = next(t for t in model.graph.initializer if t.data_type == 3 and len(t.dims) == 4)
    weights.raw_data = np.full(tuple(weights.dims), 127, dtype=np.int8).tobytes()
    image = {name: np.full(shape, 127, np.int8) for name, (shape, _) in ReferenceRunner(model).inputs.items()}
    out = ReferenceRunner(model, unsigned_weights=True, with_intermediates=True).run(image)
    accumulators = next(v for v in out.values() if v.dtype == np.int32)
    assert accumulators.max() == 127 * 127 * np.prod(list(weights.dims)[1:])


def test_float_models_are_left_alone():
    qdq = random_graph(2)
    image = {"image": random_image(qdq, 2)}
    plain, rewritten = (ReferenceRunner(qdq, 1, unsigned_weights=flag).run(image) for flag in (False, True))
    assert all((plain[name] == rewritten[name]).all() for name in plain)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("flags : avx2 avx512_vnni", False),
        ("flags : avx2 avx_vnni", False),
        ("flags : sse4_1 avx2", True),
        ("Features : asimd asimddp", False),
        ("", False),
    ],
)
def test_which_cpus_saturate(monkeypatch, flags, expected):
    monkeypatch.setattr(saturation.Path, "read_text", lambda *_, **__: flags)
    assert saturation.saturates() is expected


@pytest.fixture
def odd_convolution():
    """A model of one ConvOdd with a single output channel, and that node."""
    b = QdqBuilder(1)
    b.output(b.conv(b.image([0, 0, 0]), 1, 8), "out")
    model = lower(b.build()).model
    return model, next(node for node in model.graph.node if node.op_type == "ConvOdd")


def _same(model):
    image = inputs_of(model)
    outputs = [ReferenceRunner(model, 1, unsigned_weights=flag).run(image)["out"] for flag in (False, True)]
    return (outputs[0] == outputs[1]).all() and np.ptp(outputs[0]) > 0


def test_weights_that_are_also_the_ones(odd_convolution):
    model, node = odd_convolution
    node.input[1] = node.input[2]
    assert _same(model)


def test_weights_in_constant_nodes(odd_convolution):
    model, node = odd_convolution
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == node.input[1])
    constant = helper.make_node("Constant", [], [weight.name], value=weight)
    model.graph.initializer.remove(weight)
    model.graph.node.insert(0, constant)
    unsigned = saturation.with_unsigned_weights(model)
    convolutions = [node for node in unsigned.graph.node if node.op_type.startswith("Conv")]
    assert [len(node.input) for node in convolutions] == [4, 2] and _same(model)
