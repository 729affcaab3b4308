"""Adaptive rounding of a network: closer to the float network's outputs than rounding to the nearest."""

import numpy as np
import pytest
from float_networks import FloatBuilder, images, residual_network

from aqd_deploy.quantization.adaptive_rounding import round_adaptively
from aqd_deploy.quantization.calibration import Calibration
from aqd_deploy.quantization.methods import method_named
from aqd_deploy.quantization.network import Network
from aqd_deploy.quantization.plan import Plan
from aqd_deploy.quantization.progress import Run
from aqd_deploy.quantization.recipe import Recipe
from aqd_deploy.quantization.session import Session
from aqd_deploy.quantization.write_qdq import write_qdq

RECIPE = Recipe(weight_bits=3)


def quantized(model, count=16):
    plan, calibration = Plan.of(Network.of(model), RECIPE), Calibration.of(images(count))
    return plan, calibration, method_named("mse", {}).choose(plan, calibration, Run())


def error(plan, chosen, codes):
    names = [value.name for value in plan.network.model.graph.output]
    sessions = [Session(m, names) for m in (plan.network.model, write_qdq(plan.network, chosen, codes))]
    expected, found = ([session(feed) for feed in images(8, seed=1)] for session in sessions)
    return sum(((a[k] - b[k]) ** 2).mean() for a, b in zip(expected, found, strict=True) for k in names)


def test_unseen_images_come_out_closer_to_the_float_network():
    plan, calibration, chosen = quantized(residual_network())
    codes = round_adaptively(plan, chosen, calibration, 1000, Run())
    assert codes.keys() == {site for site in plan.sites if site.is_weight}
    for site, each in codes.items():
        assert each.shape == plan.network.array(site.tensor).shape
        assert chosen[site].low <= each.min() and each.max() <= chosen[site].high
    assert error(plan, chosen, codes) < 0.8 * error(plan, chosen, {})


@pytest.mark.parametrize("op_type", ["Gemm", "MatMul"])
def test_products_are_rounded_along_their_axis(op_type):
    net = FloatBuilder(3)
    x = net.image([100, 110, 120], [64.0, 64.0, 64.0], 16, 16)
    x = net.add("GlobalAveragePool", [net.conv(x, "stem", net.weights("stem.weight", 8, 3, 3, 3))], "mean")
    x = net.add("Flatten", [x], "flat", axis=1)
    x = net.add(op_type, [x, net.constant("w", net.rng.normal(size=(8, 5)).astype(np.float32))], "product")
    net.output(x, "scores", [1, 5])
    plan, calibration, chosen = quantized(net.model({}))
    codes = round_adaptively(plan, chosen, calibration, 1000, Run())
    assert len(codes) == 2
    assert error(plan, chosen, codes) <= error(plan, chosen, {})


def test_transposed_convolutions_are_left_alone_and_named():
    net = FloatBuilder(4)
    x = net.image([100, 110, 120], [64.0, 64.0, 64.0], 16, 16)
    x = net.conv(x, "stem", net.weights("stem.weight", 8, 3, 3, 3))
    up = net.weights("up.weight", 8, 4, 2, 2)
    net.output(
        net.add("ConvTranspose", [x, up], "up", kernel_shape=[2, 2], strides=[2, 2]), "out", [1, 4, 32, 32]
    )
    plan, calibration, chosen = quantized(net.model({}))
    run = Run()
    codes = round_adaptively(plan, chosen, calibration, 50, run)
    assert [site.tensor for site in codes] == ["stem.weight"]
    assert any("up.weight" in sentence for sentence in run.warnings)


def test_a_budget_that_is_used_up_leaves_the_rest_as_it_is():
    plan, calibration, chosen = quantized(residual_network(), 2)
    run = Run(budget=0)
    assert round_adaptively(plan, chosen, calibration, 50, run) == {}
    assert any("no time was left" in sentence for sentence in run.warnings)
