"""Batches that a training step refuses, and those without an object."""

import pytest
import torch

from aqd_deploy.errors import TrainingError
from aqd_deploy.qat.batch import check_batch
from aqd_deploy.qat.config import parse_architecture
from aqd_deploy.qat.detectors.fcos import assign_fcos
from aqd_deploy.qat.detectors.retinanet import assign_retinanet
from aqd_deploy.qat.models import build_model
from aqd_deploy.qat.train import TrainSettings, make_optimizer, train_step

ASSIGN = {"fcos": assign_fcos, "retinanet": assign_retinanet}


def _config(detector="fcos", height=64, width=96):
    return parse_architecture(
        f"{detector}_r18", width=0.125, fpn_channels=8, head_depth=1, classes=2, image_height=height,
        image_width=width,
    )  # fmt: skip


def _batch(**changes):
    """Two images of 64 x 96, the first with a box."""
    batch = {
        "images": torch.zeros(2, 3, 64, 96, dtype=torch.uint8),
        "boxes": torch.tensor([[[8.0, 8, 40, 40]], [[0, 0, 0, 0]]]),
        "labels": torch.tensor([[1], [-1]]),
        **changes,
    }
    return tuple(batch.values())


def _box(*values):
    return torch.tensor([[values], [(0, 0, 0, 0)]], dtype=torch.float32)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"images": torch.zeros(2, 3, 96, 64, dtype=torch.uint8)}, "another size.*got 96x64.*valid: 64x96"),
        ({"images": torch.zeros(2, 3, 64, 96)}, "images .* another type; got torch.float32"),
        ({"images": torch.zeros(2, 64, 96, 3, dtype=torch.uint8)}, r"another shape; got \[2, 64, 96, 3\]"),
        ({"images": torch.zeros(0, 3, 64, 96, dtype=torch.uint8)}, "another shape"),
        ({"labels": torch.tensor([[2], [-1]])}, "not one of the network's classes; got 2; valid: 0 to 1"),
        ({"labels": torch.tensor([[-2], [-1]])}, "classes; got -2"),
        ({"labels": torch.tensor([[1.0], [-1.0]])}, "labels .* another type"),
        ({"labels": torch.tensor([1, -1])}, "boxes and labels"),
        ({"labels": torch.tensor([[1]])}, "boxes and labels"),
        ({"boxes": torch.zeros(2, 1, 5)}, "boxes and labels"),
        ({"boxes": torch.zeros(2, 2, 4)}, "boxes and labels"),
        ({"boxes": torch.zeros(2, 1, 4, dtype=torch.float64)}, "boxes .* another type"),
        ({"boxes": _box(40, 8, 8, 40)}, "empty, inverted"),
        ({"boxes": _box(8, 40, 40, 8)}, "empty, inverted"),
        ({"boxes": _box(8, 8, 8, 40)}, "empty, inverted"),
        ({"boxes": _box(8, 8, torch.nan, 40)}, "not finite"),
        ({"boxes": _box(8, 8, torch.inf, 40)}, "not finite"),
        ({"boxes": _box(96, 8, 120, 40)}, "outside the image"),
        ({"boxes": _box(-9, -9, -1, -1)}, "outside the image"),
        ({"boxes": _box(4, 4, 5000, 4000)}, r"beyond the image; got \[4.0.*5000.* on an image of 64x96"),
        ({"boxes": _box(-3e38, -3e38, 3e38, 3e38)}, "beyond the image"),
        ({"boxes": _box(-9, 8, 40, 40)}, "more than 8 pixels beyond"),
        ({"boxes": _box(8, -9, 40, 40)}, "more than 8 pixels beyond"),
        ({"boxes": _box(8, 8, 105, 40)}, "more than 8 pixels beyond"),
        ({"boxes": _box(8, 8, 40, 73)}, "more than 8 pixels beyond"),
        ({"boxes": _box(0.1, 0.1, 0.5, 0.6)}, "fractions"),
    ],
)  # fmt: skip
def test_refused(changes, match):
    with pytest.raises(TrainingError, match=match):
        check_batch(_config(), _batch(**changes))


def test_a_box_may_reach_a_little_beyond_the_image():
    for values in ((0, 0, 96, 64), (-8, -8, 104, 72)):
        check_batch(_config(), _batch(boxes=_box(*values)))


@pytest.mark.parametrize("batch", [None, (), (torch.zeros(1),), ([1], [2], [3])])
def test_no_three_tensors(batch):
    with pytest.raises(TrainingError, match="three tensors"):
        check_batch(_config(), batch)


@pytest.mark.parametrize("detector", ASSIGN)
@pytest.mark.parametrize("places", [0, 1])
def test_a_batch_without_an_object_is_background(detector, places):
    torch.manual_seed(0)
    model = build_model(_config(detector)).train()
    boxes, labels = torch.zeros(2, places, 4), torch.full((2, places), -1)
    assert (ASSIGN[detector](model.config, boxes, labels).label == -1).all()
    optimizer = make_optimizer(model, TrainSettings(1))
    before = {name: p.clone() for name, p in model.named_parameters()}
    losses = train_step(model, optimizer, _batch()[0], boxes, labels, 10.0)
    assert losses["cls"] > 0 and losses["box"] == 0
    assert not torch.equal(model.head.cls_score.bias, before["head.cls_score.bias"])


@pytest.mark.parametrize("detector", ASSIGN)
def test_what_stands_in_unused_places_does_not_matter(detector):
    boxes = torch.tensor([[[8.0, 8, 40, 40], [0, 0, 0, 0]]])
    odd = torch.tensor([[[8.0, 8, 40, 40], [torch.nan, -torch.inf, 1e30, -5]]])
    labels = torch.tensor([[1, -1]])
    wanted, got = (ASSIGN[detector](_config(detector), each, labels) for each in (boxes, odd))
    assert (wanted.label >= 0).any()
    assert torch.equal(wanted.label, got.label)
    positive = wanted.label >= 0
    assert torch.equal(wanted.box[positive], got.box[positive])


@pytest.mark.parametrize("detector", ASSIGN)
def test_assignment_stays_on_the_device_of_the_boxes(detector):
    """The meta device refuses whatever is computed with tensors of another one."""
    boxes = torch.zeros(2, 3, 4, device="meta")
    targets = ASSIGN[detector](_config(detector), boxes, torch.zeros(2, 3, dtype=torch.int64, device="meta"))
    assert targets.label.device.type == targets.box.device.type == "meta"
