"""Quantizers that follow densities: their intervals against the best, their gradients, their kind."""

import numpy as np
import pytest
import torch
from known_densities import DENSITIES, GRID, histogram

from aqd_deploy.densities import Points, fit
from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.qat.config import ModelConfig
from aqd_deploy.qat.gaussian_quantizers import (
    GaussianActivationQuantizer,
    GaussianWeightQuantizer,
    best_clip,
)
from aqd_deploy.qat.layers import QuantConv2d
from aqd_deploy.qat.models import build_model


def drawn(name, count=20_000):
    """Values of a known density."""
    weights = DENSITIES[name] / DENSITIES[name].sum()
    places = np.random.default_rng(0).choice(len(GRID), count, p=weights)
    return torch.from_numpy(GRID[places].astype(np.float32))


def best(weights, codes, near):
    """The interval of least squared error, of 200 around `near`, by brute force."""
    inside = weights > 0
    values, weights, top = GRID[inside], weights[inside], np.abs(codes).max()
    middles = (codes[1:] + codes[:-1]) / 2
    errors = []
    for clip in near * np.geomspace(0.8, 1.25, 200):
        nearest = codes[np.searchsorted(middles, values / clip * top)] * clip / top
        errors.append(((nearest - values) ** 2) @ weights)
    return near * np.geomspace(0.8, 1.25, 200)[int(np.argmin(errors))]


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("name", DENSITIES)
def test_the_interval_is_within_two_percent_of_the_best(name, bits):
    counts, edges, weights = histogram(name)
    top = 2**bits - 1
    codes = np.arange(top + 1) if name.startswith("half") else np.arange(-top, top + 1, 2)
    found = best_clip(fit(Points.of_histogram(counts, edges))[0].points(), codes)
    assert found == pytest.approx(best(weights, codes, found), rel=0.02)


def test_weights_and_activations_have_the_intervals_of_their_codes():
    values, top = drawn("two bumps"), 15
    density = fit(Points.of_weights(values.numpy(), None))[0].points()
    weight = GaussianWeightQuantizer(4)
    weight.initialize(values)
    assert float(weight.nu) == pytest.approx(best_clip(density, np.arange(-top, top + 1, 2)), rel=1e-6)
    positive = values.clamp(min=0)
    density = fit(Points.of_weights(positive.numpy(), None))[0].points()
    found = GaussianActivationQuantizer(4).clip_of(positive)
    assert found == pytest.approx(best_clip(density, np.arange(top + 1)), rel=1e-6)


def test_an_interval_of_nothing_but_zeros():
    assert best_clip(Points(np.zeros((1, 5)), np.ones((1, 5))), np.arange(4)) == 1.0
    assert GaussianActivationQuantizer(4).clip_of(torch.zeros(100)) == 1.0


def test_an_activation_moves_a_quarter_of_the_way():
    quantizer, values = GaussianActivationQuantizer(4), drawn("Laplace")
    wanted = quantizer.clip_of(values.clamp(min=0))
    with torch.no_grad():
        quantizer.nu.fill_(100.0)
    quantizer.approach(wanted)
    assert float(quantizer.nu) == pytest.approx(100 + (wanted - 100) / 4, rel=1e-5)


def test_gradients_pass_within_the_interval_and_move_no_interval():
    conv = QuantConv2d(1, 1, 1, weight_bits=4, activation_bits=4, quantizer="piecewise-gaussian")
    with torch.no_grad():
        conv.weight_quantizer.nu.fill_(0.5)
        conv.weight.fill_(0.25)
        conv.activation_quantizer.nu.fill_(2.0)
    x = torch.tensor([-1.0, 0.5, 1.9, 3.0]).reshape(1, 1, 2, 2).requires_grad_()
    conv(x).sum().backward()
    weight = float(conv.quantized_weight().detach())
    assert x.grad.flatten().tolist() == [0.0, weight, weight, 0.0]
    assert float(conv.weight.grad) != 0
    assert all(q.nu.grad is None for q in (conv.weight_quantizer, conv.activation_quantizer))
    with torch.no_grad():
        conv.weight.fill_(0.75)
    conv.weight.grad = None
    conv(x.detach()).sum().backward()
    assert float(conv.weight.grad) == 0


def test_the_configuration_chooses_the_kind():
    config = ModelConfig(detector="fcos", width=0.125, fpn_channels=8, head_depth=1, bits=4, image_height=64)
    model = build_model(config.replace(quantizer="piecewise-gaussian"))
    convs = [module for module in model.modules() if isinstance(module, QuantConv2d)]
    assert all(isinstance(conv.weight_quantizer, GaussianWeightQuantizer) for conv in convs)
    inner = [conv.activation_quantizer for conv in convs if conv.activation_quantizer is not None]
    assert len(inner) == len(convs) - 1
    assert all(isinstance(quantizer, GaussianActivationQuantizer) for quantizer in inner)
    assert model.state_dict().keys() == build_model(config).state_dict().keys()
    with pytest.raises(UnsupportedModelError, match=r"quantizer.*'gauss'.*aqd, piecewise-gaussian"):
        config.replace(quantizer="gauss")
