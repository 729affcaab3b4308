"""A detector that is only registered is trained, exported, lowered and detected with like the others; one
that is not is refused by everybody who would train or export it.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from aqd_deploy.detection.detectors import DETECTORS  # noqa: E402
from aqd_deploy.detection.detectors.contract import MapDetector, Places  # noqa: E402
from aqd_deploy.detection.image_files import ImageFiles  # noqa: E402
from aqd_deploy.detection.maps import Candidates, around, by_place, cells_of, sigmoid  # noqa: E402
from aqd_deploy.errors import AqdError, CheckpointError, UnsupportedModelError  # noqa: E402
from aqd_deploy.frontends.export import ArchitectureOptions, export_source  # noqa: E402
from aqd_deploy.frontends.random_network import random_detector  # noqa: E402
from aqd_deploy.frontends.torch_qdq import export_qdq, make_manifest  # noqa: E402
from aqd_deploy.integer.manifest import read_manifest  # noqa: E402
from aqd_deploy.integer.reference import ReferenceRunner  # noqa: E402
from aqd_deploy.passes.pipeline import lower  # noqa: E402
from aqd_deploy.qat.assign import flatten_maps  # noqa: E402
from aqd_deploy.qat.checkpoint import load_checkpoint, save_checkpoint  # noqa: E402
from aqd_deploy.qat.config import ModelConfig, architectures, parse_architecture  # noqa: E402
from aqd_deploy.qat.detectors import TRAINED, detection_loss, trained_detector  # noqa: E402
from aqd_deploy.qat.detectors.contract import TrainedDetector  # noqa: E402
from aqd_deploy.qat.detectors.fcos import assign_fcos  # noqa: E402
from aqd_deploy.qat.heads import Head, LevelScale, initialize_predictions, tower  # noqa: E402
from aqd_deploy.qat.losses import classification_loss, giou_loss, mean_over_processes  # noqa: E402
from aqd_deploy.qat.models import build_model  # noqa: E402
from aqd_deploy.workflow.detect import detect_images  # noqa: E402

SMALL = {
    "width": 0.125, "fpn_channels": 16, "head_depth": 1, "classes": 3, "image_height": 64, "image_width": 64,
}  # fmt: skip


class Plain(MapDetector):
    """FCOS without centre-ness, on one tower."""

    name = "plain"
    kinds = ("cls", "side")

    def channels(self):
        return {"cls": self.classes, "side": 4}

    def least_probability(self, score):
        return score

    def decode(self, maps, stride, score_threshold, most):
        found = Candidates.above(maps["cls"], score_threshold).best(most)
        sides = [maps["side"].take(np.full_like(found.channel, k), found.y, found.x) for k in range(4)]
        boxes = around(found.centres(stride), np.stack(sides, axis=1) * stride)
        return boxes, found.scores, found.channel

    def everywhere(self, outputs, level):
        scores, sides = (by_place(outputs[level.outputs[kind]]) for kind in self.kinds)
        centres = (cells_of(outputs[level.outputs["side"]]) + self.cell_offset) * level.stride
        return Places(sigmoid(scores), around(centres, sides * level.stride))


class PlainHead(Head):
    def __init__(self, config, make, make_last):
        super().__init__()
        channels, levels = config.fpn_channels, len(config.strides)
        self.tower = tower(config, make)
        self.cls_score = make_last(channels, config.classes, 3)
        self.sides = make_last(channels, 4, 3)
        self.scales = nn.ModuleList(LevelScale() for _ in range(levels))
        initialize_predictions(self.cls_score, self.sides)
        nn.init.constant_(self.sides.bias, 1.5)

    def maps(self, layers, pyramid):
        features = layers.tower(self.tower, pyramid)
        return {
            "cls": layers.prediction(self.cls_score, features),
            "side": layers.scaled(self.scales, layers.prediction(self.sides, features)),
        }


def plain_loss(config, outputs, boxes, labels):
    targets = assign_fcos(config, boxes, labels)
    positive = targets.label >= 0
    count = mean_over_processes(positive.sum().float())
    sides = flatten_maps(outputs, "side", 4, config.levels)[positive]
    logits = flatten_maps(outputs, "cls", config.classes, config.levels)
    return {
        "cls": classification_loss(logits, targets.label, count),
        "side": giou_loss(sides, targets.box[positive]).sum() / count,
    }


@pytest.fixture
def plain(monkeypatch):
    """The detector, registered."""
    monkeypatch.setitem(DETECTORS, "plain", Plain)
    entry = TrainedDetector(Plain, PlainHead, plain_loss, lambda config: {"depth": config.head_depth})
    monkeypatch.setitem(TRAINED, "plain", entry)


@pytest.mark.usefixtures("plain")
def test_the_whole_way_of_a_registered_detector(tmp_path):
    assert "plain_r18" in architectures()
    model = random_detector(parse_architecture("plain_r18", bits=4, **SMALL))
    assert model.config.nms_iou == Plain.nms_iou
    save_checkpoint(tmp_path / "m.pt", model)
    export_source(str(tmp_path / "m.pt"), tmp_path / "m.qdq.onnx", ArchitectureOptions())
    again = load_checkpoint(tmp_path / "m.pt")
    integer = lower(export_qdq(again)).model
    manifest = read_manifest(integer)
    assert manifest["detector"]["kind"] == "plain" and manifest["detector"]["depth"] == 1
    assert list(manifest["detector"]["outputs"]) == ["cls", "side"]
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(tmp_path / "i.png")
    runner = ReferenceRunner(integer)
    found = detect_images(
        runner.run, manifest, ImageFiles([tmp_path / "i.png"]), tmp_path / "out", least_score=1e-4
    )
    (image,) = found.images
    assert len(image.detections) > 0
    assert json.loads((tmp_path / "out" / "results.json").read_text())


@pytest.mark.usefixtures("plain")
def test_a_registered_detector_is_trained():
    config = parse_architecture("plain_r18", bits=None, **SMALL)
    model = build_model(config)
    outputs = model(torch.randn(2, 3, 64, 64))
    losses = detection_loss(config, outputs, torch.tensor([[[8.0, 8, 40, 40]]] * 2), torch.tensor([[1]] * 2))
    assert sorted(losses) == ["cls", "side"] and all(bool(torch.isfinite(v)) for v in losses.values())
    sum(losses.values()).backward()
    assert float(model.head.sides.weight.grad.abs().sum()) > 0


def of_the_unknown() -> ModelConfig:
    """A configuration that no check has seen."""
    config = ModelConfig(**SMALL)
    object.__setattr__(config, "detector", "unknown")
    return config


ASKING = {
    "config": lambda: ModelConfig(detector="unknown"),
    "description": lambda: ModelConfig.from_json(
        ModelConfig().to_json().replace(f'"{ModelConfig.detector}"', '"unknown"')
    ),
    "architecture": lambda: parse_architecture("unknown_r18"),
    "export": lambda: export_source("unknown_r18", None, ArchitectureOptions()),
    "entry": lambda: trained_detector(of_the_unknown()),
    "model": lambda: build_model(of_the_unknown()),
    "loss": lambda: detection_loss(of_the_unknown(), {}, torch.zeros(1, 0, 4), torch.zeros(1, 0)),
    "manifest": lambda: make_manifest(of_the_unknown()),
}


@pytest.mark.parametrize("ask", ASKING.values(), ids=ASKING)
def test_everybody_refuses_an_unknown_detector(ask):
    with pytest.raises((UnsupportedModelError, CheckpointError), match="got 'unknown") as caught:
        ask()
    error = caught.value
    assert isinstance(error, AqdError) and error.next_command
    assert all(known in str(error.valid) for known in TRAINED)


@pytest.mark.parametrize("kind", TRAINED)
def test_both_halves_of_a_detector_fit(kind):
    """The maps that the head makes are those that decoding reads."""
    entry = TRAINED[kind]
    assert entry.detector is DETECTORS[kind]
    pyramid = f"{kind}_r18"
    config = parse_architecture(pyramid if pyramid in architectures() else kind, bits=None, **SMALL)
    outputs = build_model(config).eval()(torch.zeros(1, 3, 64, 64))
    channels = entry.detector.of(make_manifest(config)["detector"]).channels()
    assert tuple(channels) == entry.detector.kinds
    assert {name: maps.shape[1] for name, maps in outputs.items()} == {
        f"{kind}_{level}": count for kind, count in channels.items() for level in config.levels
    }
