"""The float64 evaluation against rationals."""

from __future__ import annotations

import numpy as np
import pytest
from exact_evaluation import ExactNetwork
from odd_graphs import LOWERED, inputs_of
from qdq_graphs import QdqBuilder, plain_graph, random_graph, random_image

from aqd_deploy.errors import ShapeError, UnsupportedModelError
from aqd_deploy.evaluation.float64_network import Float64Network


def tensors(model):
    return [node.output[0] for node in model.graph.node]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("graph", [random_graph, plain_graph])
def test_every_tensor_is_that_of_rational_arithmetic(graph, seed):
    """Codes with tolerance zero. Reals within 2^-40 of the largest of their tensor: some dozens of roundings
    of 2^-53 each, of terms that may be larger than their sum.
    """
    model = graph(seed)
    image = random_image(model, seed)
    expected = ExactNetwork(model).run(image)
    found = Float64Network(model, tensors(model)).run({"image": image})
    assert found.keys() >= set(model.graph.output[0].name.split())
    for name, values in found.items():
        if expected[name].dtype == np.int64:
            assert (values == expected[name]).all(), name
        else:
            exact = expected[name].astype(np.float64)
            assert np.abs(values - exact).max() <= 2**-40 * max(np.abs(exact).max(), 1), name


@pytest.mark.parametrize("name", LOWERED)
def test_unusual_windows_codes_and_scales(name):
    """The same bounds; auto_pad, dilations, ceil_mode, types of 4 bits, scales a channel are among them."""
    model = LOWERED[name]()
    feeds = inputs_of(model)
    exact = ExactNetwork(model)
    expected = exact.run(feeds["image"])
    found = Float64Network(model, [value.name for value in model.graph.output] + tensors(model)).run(feeds)
    for tensor, values in found.items():
        wanted = expected[tensor]
        if wanted.dtype == np.int64:
            assert (values.astype(np.int64) == wanted).all(), tensor
        else:
            reals = wanted.astype(np.float64)
            assert np.abs(values - reals).max() <= 2**-40 * max(np.abs(reals).max(), 1), tensor


def two_quantizers():
    """image − 104 → q (step 2, 4 bits) → 1×1 convolution by 3·0.5 → q (step 5, 4 bits)."""
    b = QdqBuilder(channels=1, height=1, width=4)
    first = b.quantize(b.image([104]), 4, step=2.0)
    weight = b.node(
        "DequantizeLinear",
        [b.constant("w", np.full((1, 1, 1, 1), 3, np.int8)), b.constant("s", np.float32(0.5))],
    )
    second = b.quantize(b.conv(first, 1, 4, kernel=1, weights=weight), 4, step=5.0)
    b.output(b.conv(second, 1, 4, kernel=1, weights=weight), "out")
    model = b.build()
    return model, [node.output[0] for node in model.graph.node if node.op_type == "Clip"]


def test_codes_by_hand_and_from_a_forced_tensor():
    model, (first, second) = two_quantizers()
    network = Float64Network(model, [first, second, "out"])
    image = np.array([104, 105, 107, 255], np.uint8).reshape(1, 1, 1, 4)
    found = network.run({"image": image})
    # (x − 104)/2 = 0, 0.5, 1.5, 75.5, ties to even, at most 15; then 3·q/5 = 0, 0, 1.2, 9.
    assert found[first].ravel().tolist() == [0, 0, 2, 15]
    assert found[second].ravel().tolist() == [0, 0, 1, 9]
    assert found["out"].ravel().tolist() == [0.0, 0.0, 7.5, 67.5]
    given = np.array([5, 5, 5, 5], np.uint8).reshape(1, 1, 1, 4)
    forced = network.run({"image": image}, {first: given})
    assert forced[first].ravel().tolist() == [0, 0, 2, 15]
    assert forced[second].ravel().tolist() == [3, 3, 3, 3]


def test_what_it_is_given_must_fit():
    model, (first, _) = two_quantizers()
    network = Float64Network(model, [first])
    with pytest.raises(ShapeError, match="input image is missing"):
        network.run({})
    image = np.zeros((1, 1, 1, 4), np.uint8)
    with pytest.raises(ShapeError, match="another shape"):
        network.run({"image": image}, {first: np.zeros((1, 1, 1, 3), np.uint8)})


def test_an_operator_that_onnx_does_not_know_is_named():
    model, _ = two_quantizers()
    model.graph.node[0].op_type = "Unheard"
    with pytest.raises(UnsupportedModelError, match="can't be evaluated in float64"):
        Float64Network(model, ["out"]).run({"image": np.zeros((1, 1, 1, 4), np.uint8)})
