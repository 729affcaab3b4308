"""Scaling channels changes no function, gives small channels more codes, and leaves what it may not touch."""

import numpy as np
import pytest
from float_graphs import CONV3, chain, float_graph, pictures

from aqd_deploy.passes.pipeline import lower
from aqd_deploy.quantization.complete import complete
from aqd_deploy.quantization.network import Network
from aqd_deploy.quantization.pipeline import quantize
from aqd_deploy.quantization.plan import Plan
from aqd_deploy.quantization.progress import Run
from aqd_deploy.quantization.recipe import Recipe, Steps
from aqd_deploy.quantization.scale_channels import uneven_inputs, with_scaled_inputs
from aqd_deploy.quantization.session import Session

W1, NEXT, DEPTHWISE = (6, 3, 3, 3), (6, 6, 3, 3), (6, 1, 3, 3)
DEPTH = "<kernel_shape = [3, 3], pads = [1, 1, 1, 1], group = 6>"
STEM = f"a = Conv {CONV3} (image, w1)"
SILU = f"{STEM} g = Sigmoid(a) r = Mul(a, g)"
EQUALISE = Recipe(steps=Steps(equalise=True))


def uneven(body, shapes, spread=30.0, seed=0):
    """A network whose first layer's channels have ranges that lie as far apart."""
    drawn = float_graph(body, {"w1": W1, **shapes}, seed=seed)
    network = Network.of(drawn)
    factors = np.geomspace(1, spread, 6, dtype=np.float32).reshape(-1, 1, 1, 1)
    return network.with_arrays({"w1": network.array("w1") * factors}).model


def scaled(model, recipe=EQUALISE):
    plan = Plan.of(Network.of(model), recipe)
    found = uneven_inputs(plan, pictures(), Run())
    return plan, found, with_scaled_inputs(plan, found)


def outputs(model, count=3):
    session = Session(model, [value.name for value in model.graph.output])
    return [value for feed in pictures(count).feeds() for value in session(feed).values()]


SCALED = {
    "a stream": (f"{STEM} r = Relu(a) y = Conv {CONV3} (r, w2)", {"w2": NEXT}, ["r"]),
    "depthwise": (f"{STEM} r = Relu(a) y = Conv {DEPTH} (r, w2)", {"w2": DEPTHWISE}, ["r"]),
    "a function": (f"{SILU} y = Conv {DEPTH} (r, w2)", {"w2": DEPTHWISE}, ["r"]),
    "pools and a leaky ReLU": (
        f"{STEM} l = LeakyRelu <alpha = 0.1> (a) p = MaxPool <kernel_shape = [2, 2]> (l) "
        f"y = Conv {CONV3} (p, w2)",
        {"w2": NEXT},
        ["p"],
    ),
    "a sum": (
        f"{STEM} b = Conv {CONV3} (image, w2) s = Add(a, b) r = Relu(s) y = Conv {CONV3} (r, w3)",
        {"w2": W1, "w3": NEXT},
        ["r"],
    ),
    "two layers": (
        f"{STEM} r = Relu(a) b = Conv {CONV3} (r, w2) c = Conv {DEPTH} (r, w3) y = Add(b, c)",
        {"w2": NEXT, "w3": DEPTHWISE},
        ["r"],
    ),
    "a skip beside it": (
        f"{STEM} r = Relu(a) b = Conv {CONV3} (r, w2) y = Add(b, r)", {"w2": NEXT}, ["r"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SCALED)
def test_the_function_stays_and_ranges_are_evened(name):
    body, shapes, tensors = SCALED[name]
    model = uneven(body, shapes, spread=1e3)
    plan, found, network = scaled(model)
    assert [each.site.tensor for each in found] == tensors
    for before, after in zip(outputs(plan.network.model), outputs(network.model), strict=True):
        # In float32, with factors up to 64.
        np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4 * np.abs(before).max())
    named = {layer.name for layer in found[0].layers}
    (tensor,) = {layer.input for layer in network.layers if layer.name in named}
    high = [np.abs(Session(network.model, [tensor])(feed)[tensor]) for feed in pictures().feeds()]
    channels = np.max(high, axis=(0, 1, 3, 4))
    assert channels.max() / channels.min() < 0.2 * found[0].high.max() / found[0].high.min()
    # None is larger than the largest was: what the quantizer's range is stays what it is.
    assert channels.max() <= found[0].high.max() * (1 + 1e-6)


@pytest.mark.parametrize("name", SCALED)
def test_8_bits_lose_less_and_are_lowered(name):
    """By a tenth of the square at least."""
    body, shapes, _ = SCALED[name]
    model = uneven(body, shapes, spread=1e3)
    plain, better = quantize(model, pictures()), quantize(model, pictures(), EQUALISE)
    assert better.report["output_error"] < 0.9 * plain.report["output_error"]
    steps = {step["step"]: step for step in better.report["steps"]}
    assert steps["scale_channels"]["error_after"] < steps["scale_channels"]["error_before"]
    assert lower(better.model).report["float_tensors"] == 0


@pytest.mark.parametrize("name", ["a stream", "depthwise", "pools and a leaky ReLU", "two layers"])
def test_the_product_costs_nothing_behind_a_convolution(name):
    body, shapes, _ = SCALED[name]
    model = uneven(body, shapes, spread=1e3)
    plan, _, network = scaled(model)
    operators = [
        [node.op_type for node in lower(quantize(each, pictures()).model).model.graph.node]
        for each in (plan.network.model, network.model)
    ]
    assert operators[0] == operators[1]


@pytest.mark.parametrize(
    ("body", "shapes", "spread"),
    [
        (f"{STEM} r = Relu(a) y = Conv {CONV3} (r, w2)", {"w2": NEXT}, 1.0),
        (f"{SILU} y = Conv {CONV3} (r, w2)", {"w2": NEXT}, 6.0),
        (f"{STEM} b = Conv {CONV3} (a, w2) r = Relu(b) y = Conv {CONV3} (r, w2)", {"w2": NEXT}, 1e3),
        (f"{STEM} r = Relu(a) y = Conv {DEPTH.replace('6', '2')} (r, w2)", {"w2": (6, 3, 3, 3)}, 1e3),
        (
            f"{STEM} p = Pad(a, pads) y = Conv (p, w2)",
            {"w2": NEXT, "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])}, 1e3,
        ),
    ],
    ids=["even channels", "not worth a function", "shared weights", "grouped", "codes that are padded"],
)  # fmt: skip
def test_left_alone(body, shapes, spread):
    _, found, _ = scaled(uneven(body, shapes, spread))
    # Of two layers with the same weights the first one reads another tensor than those of this test.
    assert not [each for each in found if each.site.tensor in ("a", "r")]


def test_a_channel_that_no_image_shows_keeps_its_scale():
    model = uneven(*SCALED["a stream"][:2], spread=1e3)
    network = Network.of(model)
    weights = network.array("w1").copy()
    weights[5] = 0
    plan, (found,), scaled_network = scaled(network.with_arrays({"w1": weights}).model)
    assert found.high[5] == found.high.max()
    factors = scaled_network.array("w2").max(axis=(0, 2, 3)) / plan.network.array("w2").max(axis=(0, 2, 3))
    assert factors.min() >= 1 / 64 - 1e-6 and factors[5] > factors[0]


def test_weights_of_one_scale_take_no_more_than_half_of_it():
    model = uneven(*SCALED["depthwise"][:2], spread=1e3)
    own, one = (scaled(model, recipe)[2].array("w2") for recipe in (EQUALISE, Recipe(per_channel=False)))
    sizes = [np.abs(each).max(axis=(1, 2, 3)) for each in (own, one)]
    assert sizes[0].max() / sizes[0].min() > sizes[1].max() / sizes[1].min()


def test_what_would_help_is_told():
    model = uneven(*SCALED["a stream"][:2], spread=1e5)
    (warning,) = quantize(model, pictures()).report["warnings"]
    assert "unlike ranges in 1 of 2 tensors" in warning and "--equalise" in warning
    part = quantize(model, pictures(), Recipe(excluded=("y",))).model
    assert complete(part, pictures()).report["warnings"] == []
    assert quantize(model, pictures(), EQUALISE).report["warnings"] == []
    assert quantize(chain(), pictures()).report["warnings"] == []
