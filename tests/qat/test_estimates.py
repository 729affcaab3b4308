"""Densities estimated in a training: when, from what, and what it leaves alone."""

import copy

import numpy as np
import pytest
import torch
import torch.distributed as dist

from aqd_deploy.errors import TrainingError
from aqd_deploy.qat import estimates
from aqd_deploy.qat.checkpoint import load_checkpoint, save_checkpoint
from aqd_deploy.qat.config import ModelConfig
from aqd_deploy.qat.estimates import due, estimate
from aqd_deploy.qat.layers import QuantConv2d
from aqd_deploy.qat.models import build_model, quantized_from_float
from aqd_deploy.qat.train import TrainSettings, train

CONFIG = ModelConfig(
    detector="fcos", width=0.125, fpn_channels=8, head_depth=1, classes=2, image_height=64, image_width=64
)
QUANTIZED = CONFIG.replace(bits=4, quantizer="piecewise-gaussian")


def source(iteration, rank, world):
    """Bright squares on noise, class by color."""
    rng = np.random.default_rng(iteration % 4)
    images = rng.integers(0, 60, (4, 3, 64, 64), np.uint8)
    corner, labels = rng.integers(4, 36, (4, 1, 2)), rng.integers(0, 2, (4, 1))
    for image, (x, y), label in zip(images, corner[:, 0], labels[:, 0], strict=True):
        image[label, y : y + 20, x : x + 20] += 180
    boxes = np.concatenate([corner, corner + 20], axis=2).astype(np.float32)
    return tuple(torch.from_numpy(each) for each in (images, boxes, labels))


@pytest.fixture(scope="module")
def calibrated():
    torch.manual_seed(0)
    network = build_model(CONFIG)
    inputs = network.preprocess(source(0, 0, 1)[0])
    with torch.no_grad():
        for _ in range(20):
            network(inputs)
    return quantized_from_float(network, QUANTIZED, [inputs]).train()


@pytest.fixture
def model(calibrated):
    return copy.deepcopy(calibrated)


def intervals(model):
    return {name: float(value) for name, value in model.state_dict().items() if name.endswith(".nu")}


@pytest.mark.parametrize(("iterations", "count", "last"), [(4000, 40, 3200), (50, 40, 40), (10, 8, 8)])
def test_the_schedule(iterations, count, last):
    found = [iteration for iteration in range(iterations) if due(iteration, iterations)]
    assert len(found) == count and found[-1] == last and 0 not in found


def test_an_estimate_sets_intervals_and_nothing_else(model):
    inputs = model.preprocess(source(1, 0, 1)[0])
    quantizers = {
        name: module for name, module in model.named_modules() if name.endswith("activation_quantizer")
    }
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        for conv in (each for each in model.modules() if isinstance(each, QuantConv2d)):
            conv.weight *= 2
        for quantizer in quantizers.values():
            quantizer.nu *= 100
    estimate(model, inputs)
    assert model.training
    for name, value in model.state_dict().items():
        if name.endswith("weight_quantizer.nu"):
            assert float(value) == pytest.approx(2 * float(before[name]), rel=1e-5)
        elif name.endswith("activation_quantizer.nu"):
            assert 75 * 0.99 * float(before[name]) < float(value) < 100 * float(before[name])
        elif not name.endswith("conv.weight") and value.dim() < 4:
            assert torch.equal(value, before[name]), name


def test_processes_agree_on_the_mean(model, monkeypatch):
    """As if another process had found intervals that are three times as large."""
    inputs = model.preprocess(source(1, 0, 1)[0])
    alone = build_model(QUANTIZED)
    alone.load_state_dict(model.state_dict())
    estimate(alone.train(), inputs)
    monkeypatch.setattr(estimates, "distributed", lambda: True)
    monkeypatch.setattr(dist, "all_reduce", lambda values: values.mul_(4))
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    estimate(model, inputs)
    expected = intervals(alone)
    for name, value in intervals(model).items():
        factor = 2 if "activation" in name else 1
        assert value == pytest.approx(factor * expected[name], rel=1e-6)


def test_activations_that_are_not_finite_are_refused(model):
    with pytest.raises(TrainingError, match=r"activations are not finite.*lower learning rate"):
        estimate(model, torch.full((1, 3, 64, 64), torch.nan))


def test_training_learns_resumes_and_keeps_its_kind(model, tmp_path, capsys, monkeypatch):
    """In parts as in one."""
    monkeypatch.setattr(estimates, "ESTIMATES", 2)
    settings = TrainSettings(6, 4e-3, warmup=1, log_every=1, checkpoint_every=3)
    start, before = model.state_dict(), intervals(model)
    start = {name: value.clone() for name, value in start.items()}
    whole = train(model, source, settings, tmp_path / "whole").state_dict()
    losses = [float(line.split("cls ")[1].split()[0]) for line in capsys.readouterr().err.splitlines()]
    assert losses[-1] < losses[0]
    assert all(value != before[name] for name, value in intervals(model).items())

    class Killed(Exception):
        pass

    def killed(iteration, rank, world):
        if iteration == 5:
            raise Killed
        return source(iteration, rank, world)

    parts = build_model(QUANTIZED)
    parts.load_state_dict(start)
    with pytest.raises(Killed):
        train(parts, killed, settings, tmp_path / "parts")
    again = build_model(QUANTIZED)
    resumed = train(again, source, settings, tmp_path / "parts").state_dict()
    assert all(torch.equal(value, whole[name]) for name, value in resumed.items())
    save_checkpoint(tmp_path / "compact.pt", again, compact=True)
    assert load_checkpoint(tmp_path / "compact.pt").config.quantizer == "piecewise-gaussian"
