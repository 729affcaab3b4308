"""YOLOv2's body: its size, the order of its passthrough, and what it shares with the exported graph."""

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from aqd_deploy.frontends.random_network import random_detector
from aqd_deploy.frontends.torch_qdq import export_qdq
from aqd_deploy.qat.config import ModelConfig, parse_architecture
from aqd_deploy.qat.detectors.yolov2 import yolov2_loss
from aqd_deploy.qat.models import build_model
from aqd_deploy.qat.yolo_body import SpaceToDepth

SMALL = {"width": 0.02, "classes": 2, "image_height": 64, "image_width": 96}


def test_the_full_network_has_as_many_weights_as_darknets():
    """yolov2 has 50,983,561 weights for COCO's 80 classes, in batch norms with mean and variance."""
    with torch.device("meta"):
        model = build_model(parse_architecture("yolov2", classes=80))
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    statistics = 2 * sum(norm.num_features for norm in norms)
    assert len(norms) == 22
    assert sum(p.numel() for p in model.parameters()) + statistics == 50_983_561


def test_squares_become_channels_as_in_onnx():
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 6)).astype(np.float32)
    node = helper.make_node("SpaceToDepth", ["x"], ["y"], blocksize=2)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy"]
    graph = helper.make_graph([node], "g", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    (wanted,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    found = SpaceToDepth()(torch.from_numpy(x)).numpy()
    np.testing.assert_array_equal(found, wanted)


@pytest.fixture(scope="module")
def network():
    return random_detector(parse_architecture("yolov2", bits=None, **SMALL))


def test_the_passthrough_brings_the_map_of_stride_16(network):
    body = network.backbone
    seen = {}
    body.passthrough.register_forward_hook(lambda _, given, made: seen.update(at=given[0].value.shape))
    body.join.register_forward_hook(lambda _, given, made: seen.update(joined=given[0].value.shape))
    out = network(torch.zeros(1, 3, 64, 96))
    assert {name: tuple(value.shape) for name, value in out.items()} == {"map_p5": (1, 5 * 7, 2, 3)}
    assert seen["at"] == (1, 10, 4, 6)
    assert seen["joined"] == (1, 4 * 8 + 20, 2, 3)


def test_the_exported_network_is_the_one_in_torch(network):
    """To 1e-4 of the largest value: float32 sums in another order."""
    image = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (1, 3, 64, 96), np.uint8))
    file = export_qdq(network)
    assert file.graph.name == "yolov2_float"
    (found,) = onnxruntime.InferenceSession(file.SerializeToString()).run(None, {"image": image.numpy()})
    with torch.no_grad():
        wanted = network(network.preprocess(image))["map_p5"].numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())


def test_the_loss_reaches_every_layer():
    torch.manual_seed(0)
    model = build_model(parse_architecture("yolov2", bits=4, **SMALL)).train()
    pixels = torch.from_numpy(np.random.default_rng(2).integers(0, 256, (2, 3, 64, 96), np.uint8))
    box, labels = torch.tensor([[[8.0, 8.0, 56.0, 60.0]]] * 2), torch.tensor([[1]] * 2)
    sum(yolov2_loss(model.config, model(model.preprocess(pixels)), box, labels).values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and bool(torch.isfinite(parameter.grad).all()), name
        assert float(parameter.grad.abs().max()) > 0, name


def test_a_description_is_read_as_it_was_written():
    config = parse_architecture("yolov2", bits=2, **SMALL)
    assert ModelConfig.from_json(config.to_json()) == config
    assert config.label == "yolov2_2bit" and config.levels == ("p5",)
    assert parse_architecture("yolov2_tiny", bits=None).label == "yolov2_tiny_float"
