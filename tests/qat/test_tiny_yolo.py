"""Tiny-YOLOv2 in training: assignment, losses, quantizers behind leaky ReLU, and on the way to a program."""

import numpy as np
import onnxruntime
import pytest
import torch

from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.frontends.torch_qdq import export_qdq
from aqd_deploy.integer.reference import ReferenceRunner
from aqd_deploy.passes.pipeline import lower
from aqd_deploy.qat.checkpoint import load_checkpoint, save_checkpoint
from aqd_deploy.qat.config import ModelConfig, parse_architecture
from aqd_deploy.qat.detectors.yolov2 import assign_yolov2, yolov2_loss
from aqd_deploy.qat.gaussian_quantizers import GaussianActivationQuantizer
from aqd_deploy.qat.layers import QuantConv2d
from aqd_deploy.qat.models import build_model, quantized_from_float
from aqd_deploy.qat.quantizers import ActivationQuantizer
from aqd_deploy.qat.run_state import TrainSettings
from aqd_deploy.qat.train import make_optimizer, train_step
from aqd_deploy.qat.yolo_body import HaltingPool

CONFIG = parse_architecture("yolov2_tiny", width=0.01, classes=2, image_height=64, image_width=96)


def images(seed):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (4, 3, 64, 96), np.uint8))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    model = build_model(CONFIG)
    with torch.no_grad():
        for seed in range(10):
            model(model.preprocess(images(seed)))
    return model.eval()


def quantized(network, bits, quantizer):
    config = CONFIG.replace(bits=bits, quantizer=quantizer)
    return quantized_from_float(network, config, [network.preprocess(images(0))]).eval()


def test_the_last_pool_keeps_the_size_and_pads_with_nothing():
    x = torch.tensor([[[[-3.0, -5.0], [-4.0, -6.0]]]])
    assert HaltingPool()(x).tolist() == [[[[-3, -5], [-4, -6]]]]


def test_the_map_has_a_channel_for_everything_of_an_anchor(network):
    out = network(network.preprocess(images(0)))
    assert {name: tuple(value.shape) for name, value in out.items()} == {"map_p5": (4, 5 * 7, 2, 3)}
    full = build_model(parse_architecture("yolov2_tiny", classes=20))
    # Darknet's yolov2-tiny-voc has 15,867,885 weights, in batch norms with mean and variance.
    batch_norms = 2 * sum(16 * 2**k for k in range(7)) + 2 * 1024
    assert sum(p.numel() for p in full.parameters()) + batch_norms == 15_867_885


def test_an_object_belongs_to_its_centre_and_its_best_anchor():
    width, height = CONFIG.anchor_sides[0][1]
    box = torch.tensor([[[40.0 - width / 2, 50 - height / 2, 40 + width / 2, 50 + height / 2], [0, 0, 0, 0]]])
    wanted = assign_yolov2(CONFIG, (2, 3), box, torch.tensor([[1, -1]]))
    assert wanted.own.nonzero().tolist() == [[0, 1 * 6 + 1 * 3 + 1]]
    place = wanted.place[wanted.own]
    np.testing.assert_allclose(place, [[40 / 32 - 1, 50 / 32 - 1, 0, 0]], atol=1e-5)
    assert wanted.label[wanted.own].tolist() == [1]


def test_a_map_that_is_right_costs_next_to_nothing():
    box, labels = torch.tensor([[[8.0, 8.0, 56.0, 60.0]]]), torch.tensor([[1]])
    wanted = assign_yolov2(CONFIG, (2, 3), box, labels)
    right = torch.zeros(1, 5 * 6, 7)
    right[..., 4] = -20
    place = wanted.place[wanted.own]
    right[wanted.own] = torch.cat([place[:, :2].logit(), place[:, 2:], torch.tensor([[20.0, -20, 20]])], 1)
    output = right.reshape(1, 5, 2, 3, 7).permute(0, 1, 4, 2, 3).reshape(1, 35, 2, 3)
    right_losses = yolov2_loss(CONFIG, {"map_p5": output}, box, labels)
    assert all(float(loss) < 1e-3 for loss in right_losses.values())
    wrong_losses = yolov2_loss(CONFIG, {"map_p5": -output}, box, labels)
    assert all(float(loss) > 0.1 for loss in wrong_losses.values())
    empty = yolov2_loss(CONFIG, {"map_p5": output}, box, torch.tensor([[-1]]))
    assert float(empty["box"]) == float(empty["cls"]) == 0


@pytest.mark.parametrize("kind", [ActivationQuantizer, GaussianActivationQuantizer])
@pytest.mark.parametrize(("bits", "zero_point"), [(8, 23), (4, 1), (3, 1), (2, 0)])
def test_codes_behind_leaky_relu_have_a_zero_point(kind, bits, zero_point):
    quantizer = kind(bits, 0.1)
    with torch.no_grad():
        quantizer.nu.fill_(2.0)
    x = torch.tensor([-9.0, 0.0, 2.0, 9.0])
    assert quantizer.integer(x).tolist() == [0, zero_point, 2**bits - 1, 2**bits - 1]
    step = float(quantizer.step())
    assert step == pytest.approx(2 / (2**bits - 1 - zero_point))
    expected = (quantizer.integer(x).float() - zero_point) * quantizer.step()
    assert torch.equal(quantizer(x), expected)
    values = torch.nn.functional.leaky_relu(
        torch.randn(5000, generator=torch.Generator().manual_seed(0)), 0.1
    )
    assert 1 < quantizer.clip_of(values) < 4.5


@pytest.mark.parametrize("quantizer", ["aqd", "piecewise-gaussian"])
def test_both_kinds_of_quantizers_learn(network, quantizer):
    model = quantized(network, 4, quantizer).train()
    optimizer = make_optimizer(model, TrainSettings(20, 4e-3))
    box, labels = torch.tensor([[[8.0, 8.0, 56.0, 60.0]]] * 4), torch.tensor([[1]] * 4)
    losses = [sum(train_step(model, optimizer, images(0), box, labels, 10.0).values()) for _ in range(20)]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("quantizer", ["aqd", "piecewise-gaussian"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_exported_network_is_the_trained_one_and_lowers(network, tmp_path, bits, quantizer):
    """To 1e-4 of values up to 5: float32 sums in another order. A compact file is the same network."""
    model = quantized(network, bits, quantizer)
    save_checkpoint(tmp_path / "m.pt", model, compact=True)
    file, image = export_qdq(load_checkpoint(tmp_path / "m.pt")), images(1)[:1]
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(file.SerializeToString(), options)
    (exported,) = session.run(None, {"image": image.numpy()})
    with torch.no_grad():
        expected = model(model.preprocess(image))["map_p5"].numpy()
    np.testing.assert_allclose(exported, expected, atol=1e-4)
    integers = ReferenceRunner(lower(file).model).run({"image": image.numpy()})["map_p5"]
    assert integers.dtype == np.int32 and integers.shape == expected.shape


def test_the_program_has_the_integers_of_the_reference(network, tmp_path):
    """8 bits, whose odd weights stand behind codes with a zero point."""
    import onnx

    from aqd_deploy.cli.main import invoke

    onnx.save(lower(export_qdq(quantized(network, 8, "aqd"))).model, tmp_path / "m.int.onnx")
    np.savez(tmp_path / "x.npz", image=images(1)[:1].numpy())
    program, file = str(tmp_path / "m.so"), str(tmp_path / "m.int.onnx")
    assert invoke(["compile", file, "-o", program]) == 0
    assert invoke(["run", program, "--input", str(tmp_path / "x.npz"), "--check", file]) == 0


def test_a_body_needs_its_head():
    with pytest.raises(UnsupportedModelError, match="body and head belong together"):
        ModelConfig(detector="yolov2")
    with pytest.raises(UnsupportedModelError, match="levels"):
        CONFIG.replace(anchor_sides=())
    assert isinstance(build_model(CONFIG).head.prediction, QuantConv2d)
