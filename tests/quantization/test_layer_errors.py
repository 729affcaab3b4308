"""The error of each layer alone, and the biases that are corrected by it."""

import numpy as np
import pytest
from float_graphs import CONV3, chain, float_graph, pictures

from aqd_deploy.quantization.alone import layer_errors
from aqd_deploy.quantization.bias_correction import with_corrected_biases
from aqd_deploy.quantization.methods import method_named
from aqd_deploy.quantization.network import Network
from aqd_deploy.quantization.output_error import output_error
from aqd_deploy.quantization.plan import Plan
from aqd_deploy.quantization.progress import Run
from aqd_deploy.quantization.recipe import Recipe
from aqd_deploy.quantization.session import Session
from aqd_deploy.quantization.write_qdq import write_qdq

LOW = Recipe(weight_bits=3, activation_bits=3, first_bits=3, last_bits=3)


def prepared(model, recipe=LOW):
    plan = Plan.of(Network.of(model), recipe)
    return plan, method_named("minmax", {}).choose(plan, pictures(), Run())


def test_a_layer_reads_what_the_float_network_makes():
    plan, chosen = prepared(chain())
    found = layer_errors(plan, chosen, None, pictures(4), Run())
    (of_input,) = [site for site in plan.sites if site.tensor == "r"]
    (of_weight,) = [site for site in plan.sites if site.tensor == "w2"]
    real = Session(plan.network.model, ["r", "b"])
    # The second layer in a network of its own, its input and weights rounded.
    alone = float_graph(
        f"y = Conv {CONV3} (image, w2, b2)",
        {
            "w2": chosen[of_weight].rounded(plan.network.array("w2"), 0),
            "b2": plan.network.array("b2"),
        },
        channels=6,
    )  # fmt: skip
    session = Session(alone, ["y"])
    differences, signals = [], []
    for feed in pictures(4).feeds():
        values = real(feed)
        differences.append(session({"image": chosen[of_input].rounded(values["r"])})["y"] - values["b"])
        signals.append(values["b"])
    difference = np.concatenate(differences)
    np.testing.assert_allclose(found["b"].shift, difference.mean(axis=(0, 2, 3)), rtol=1e-3, atol=1e-6)
    assert found["b"].noise == pytest.approx((difference**2).mean(), rel=1e-4)
    assert found["b"].signal == pytest.approx((np.concatenate(signals) ** 2).mean(), rel=1e-4)
    assert found["b"].decibels == pytest.approx(10 * np.log10(found["b"].signal / found["b"].noise))


def test_codes_reach_a_layer_through_what_only_moves_them():
    body = f"a = Conv {CONV3} (image, w1) p = Pad(a, pads) y = Conv (p, w2)"
    shapes = {"w1": (6, 3, 3, 3), "w2": (4, 6, 3, 3), "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])}
    low, fine = (
        layer_errors(*prepared(float_graph(body, shapes), recipe), None, pictures(4), Run())["y"].noise
        for recipe in (Recipe(activation_bits=2, first_bits=8, last_bits=2), Recipe())
    )
    assert low > 20 * fine


@pytest.mark.parametrize("opset", [17, 18])
def test_means_of_every_opset(opset):
    model = chain()
    model.opset_import[0].version = opset
    found = layer_errors(*prepared(model), None, pictures(2), Run())
    assert set(found) == {"a", "b", "y"} and all(each.noise > 0 for each in found.values())


def test_corrected_biases_take_the_shift_away():
    plan, chosen = prepared(chain())
    images = pictures()
    errors = layer_errors(plan, chosen, None, images, Run())
    layers = {layer.output: layer for layer in plan.placement.layers}
    network, count = with_corrected_biases(plan.network, layers, errors)
    assert count == 3
    np.testing.assert_allclose(
        network.array("b_bias"), plan.network.array("b2") - errors["b"].shift, rtol=1e-5, atol=1e-6
    )
    before, after = (
        output_error(plan, write_qdq(each, chosen), images, Run()) for each in (plan.network, network)
    )
    assert after < before


def test_a_shared_bias_becomes_one_for_each():
    body = f"a = Conv {CONV3} (image, w1, b1) b = Conv {CONV3} (a, w2, b1) y = MatMul(b, w3)"
    model = float_graph(body, {"w1": (6, 3, 3, 3), "b1": (6,), "w2": (6, 6, 3, 3), "w3": (8, 8)})
    plan, chosen = prepared(model)
    errors = layer_errors(plan, chosen, None, pictures(), Run())
    layers = {layer.output: layer for layer in plan.placement.layers}
    network, count = with_corrected_biases(plan.network, layers, errors)
    assert count == 2
    assert (network.array("a_bias") != network.array("b_bias")).any()
    assert "b1" not in {tensor.name for tensor in network.model.graph.initializer}
