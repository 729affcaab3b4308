"""Target assignment and losses."""

import math

import pytest
import torch

from aqd_deploy.qat.assign import BACKGROUND, IGNORED, flatten_maps, pairwise_iou, pyramid_cells
from aqd_deploy.qat.config import parse_architecture
from aqd_deploy.qat.detectors import detection_loss
from aqd_deploy.qat.detectors.fcos import assign_fcos, centreness
from aqd_deploy.qat.detectors.retinanet import (
    anchors_per_cell,
    assign_retinanet,
    encode_boxes,
    pyramid_anchors,
)
from aqd_deploy.qat.losses import giou_loss, sigmoid_focal_loss

SMALL = {
    "width": 0.125,
    "fpn_channels": 8,
    "head_depth": 1,
    "classes": 3,
    "image_height": 64,
    "image_width": 96,
}
FCOS = parse_architecture("fcos_r18", **SMALL)
RETINA = parse_architecture("retinanet_r18", anchor_base=2.5, **SMALL)


def _one(*box: float, label: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch of one image with one object and one unused place."""
    return torch.tensor([[box, (0, 0, 0, 0)]], dtype=torch.float32), torch.tensor([[label, -1]])


def test_cells_follow_the_maps():
    cells, strides = pyramid_cells(FCOS)
    assert len(cells) == 8 * 12 + 4 * 6 + 2 * 3 + 1 * 2 + 1
    assert cells[0].tolist() == [4, 4] and cells[1].tolist() == [12, 4] and cells[12].tolist() == [4, 12]
    assert cells[96].tolist() == [8, 8] and float(strides[96]) == 16


def test_anchors_are_ratio_major():
    anchors = pyramid_anchors(RETINA)
    size = anchors[:9, 2:] - anchors[:9, :2]
    assert size[3].tolist() == pytest.approx([20, 20])  # ratio 1, scale 1: base 2.5 at stride 8
    assert size[4].tolist() == pytest.approx([25.2, 25.2])
    assert float(size[0, 1] / size[0, 0]) == pytest.approx(0.5)
    assert float(size[6, 1] / size[6, 0]) == pytest.approx(2.0)
    assert ((anchors[:9, :2] + anchors[:9, 2:]) / 2).flatten().tolist() == pytest.approx([4.0] * 18)


def test_flattened_maps_are_in_the_order_of_the_anchors():
    outputs = {"box_p3": torch.arange(2 * 4 * 6).reshape(1, 8, 2, 3).float()}
    flat = flatten_maps(outputs, "box", 4, ("p3",))
    assert flat.shape == (1, 12, 4)
    cell, anchor = 4, 1  # row 1, column 1
    assert flat[0, cell * 2 + anchor].tolist() == outputs["box_p3"][0, 4:8, 1, 1].tolist()


def test_fcos_targets_reach_the_box_from_each_positive_cell():
    boxes, labels = _one(10, 6, 34, 30)
    targets = assign_fcos(FCOS, boxes, labels)
    cells, strides = pyramid_cells(FCOS)
    positive = targets.label[0] >= 0
    assert set(strides[positive].tolist()) == {8.0}
    assert 4 <= int(positive.sum()) <= 9
    assert set(targets.label[0, positive].tolist()) == {1}
    distances = targets.box[0, positive] * 8
    corners = torch.cat([cells[positive] - distances[:, :2], cells[positive] + distances[:, 2:]], dim=1)
    assert torch.allclose(corners, boxes[0, :1].expand_as(corners))
    assert set(targets.label[0, ~positive].tolist()) == {BACKGROUND}


def test_large_objects_go_to_coarser_levels():
    _, strides = pyramid_cells(FCOS)
    boxes, labels = _one(2, 2, 90, 60)
    levels = strides[assign_fcos(FCOS, boxes, labels).label[0] >= 0]
    assert set(levels.tolist()) <= {16.0, 32.0} and len(levels)


def test_a_narrow_object_between_the_cells_is_still_learned():
    """5 pixels wide between two columns of centres (x = 12 and 20): no centre lies inside."""
    targets = assign_fcos(FCOS, *_one(13, 10, 18, 30))
    assert int((targets.label >= 0).sum()) >= 1
    assert float(targets.box[targets.label >= 0].min()) > 0


def test_the_smaller_of_two_objects_wins_a_cell():
    boxes = torch.tensor([[[0, 0, 30, 30], [10, 10, 20, 20]]], dtype=torch.float32)
    targets = assign_fcos(FCOS, boxes, torch.tensor([[0, 2]]))
    cell = 1 * 12 + 1  # centre (12, 12)
    assert int(targets.label[0, cell]) == 2


def test_centreness_is_one_in_the_middle():
    values = centreness(torch.tensor([[2.0, 3, 2, 3], [1.0, 1, 3, 1]]))
    assert values.tolist() == pytest.approx([1.0, math.sqrt(1 / 3)])


def test_iou_of_known_boxes():
    a = torch.tensor([[0.0, 0, 2, 2], [5, 5, 5, 5]])
    assert pairwise_iou(a, torch.tensor([[1.0, 1, 3, 3]])).flatten().tolist() == pytest.approx([1 / 7, 0])


def test_retinanet_matches_by_iou_and_rescues_small_objects():
    anchors = pyramid_anchors(RETINA)
    boxes, labels = _one(40, 20, 47, 27)  # 7x7: no anchor reaches IoU 0.5
    assert float(pairwise_iou(anchors, boxes[0, :1]).max()) < 0.5
    targets = assign_retinanet(RETINA, boxes, labels)
    assert int((targets.label == 1).sum()) >= 1
    boxes, labels = _one(*anchors[400].tolist())
    targets = assign_retinanet(RETINA, boxes, labels)
    assert int(targets.label[0, 400]) == 1
    assert targets.box[0, 400].tolist() == pytest.approx([0, 0, 0, 0], abs=1e-6)
    iou = pairwise_iou(anchors, boxes[0, :1])[:, 0]
    between = (iou >= 0.4) & (iou < 0.5)
    assert set(targets.label[0, between].tolist()) == {IGNORED}
    assert set(targets.label[0, iou < 0.4].tolist()) == {BACKGROUND}


def test_an_image_without_objects_is_all_background():
    boxes, labels = torch.zeros(1, 2, 4), torch.full((1, 2), -1)
    for config, assign in ((FCOS, assign_fcos), (RETINA, assign_retinanet)):
        assert set(assign(config, boxes, labels).label.flatten().tolist()) == {BACKGROUND}


def test_encoding_is_the_inverse_of_the_documented_decoding():
    anchors = pyramid_anchors(RETINA)[:50]
    boxes = anchors + torch.tensor([1.0, -2.0, 5.0, 3.0])
    delta = encode_boxes(anchors, boxes)
    size = anchors[:, 2:] - anchors[:, :2]
    centre = (anchors[:, :2] + anchors[:, 2:]) / 2 + delta[:, :2] * size
    half = size * torch.exp(delta[:, 2:]) / 2
    assert torch.allclose(torch.cat([centre - half, centre + half], dim=1), boxes, atol=1e-4)


def test_focal_loss_of_known_values():
    loss = sigmoid_focal_loss(torch.tensor([0.0, 0.0]), torch.tensor([1.0, 0.0]))
    assert float(loss) == pytest.approx((0.25 + 0.75) * 0.25 * math.log(2))


def test_giou_loss_is_zero_for_equal_boxes_and_above_one_for_separate_ones():
    equal = torch.tensor([[1.0, 2, 3, 4]])
    assert float(giou_loss(equal, equal)) == pytest.approx(0, abs=1e-6)
    half = giou_loss(torch.tensor([[1.0, 1, 1, 1]]), torch.tensor([[1.0, 1, 3, 1]]))
    assert float(half) == pytest.approx(0.5)
    empty = giou_loss(torch.zeros(1, 4), equal)
    assert float(empty) == pytest.approx(1.0)
    corner = giou_loss(torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[1.0, 1, 0, 0]]))
    assert float(corner) == pytest.approx(1.5)  # touching corners: IoU 0, half of the hull is empty


def _maps(config, device="cpu"):
    anchors = 1 if config.detector == "fcos" else anchors_per_cell(config)
    kinds = {"cls": 3 * anchors, "box": 4 * anchors} | ({"ctr": 1} if anchors == 1 else {})
    sides = [(8, 12), (4, 6), (2, 3), (1, 2), (1, 1)]
    return {
        f"{kind}_{level}": torch.full((1, depth, *side), 0.5, device=device)
        for kind, depth in kinds.items()
        for level, side in zip(config.levels, sides, strict=True)
    }


@pytest.mark.parametrize("config", [FCOS, RETINA], ids=["fcos", "retinanet"])
def test_no_shape_depends_on_the_objects(config):
    """So that a card never waits for a count: tensors without numbers have a loss."""
    boxes, labels = (value.to("meta") for value in _one(10, 6, 34, 30))
    losses = detection_loss(config, _maps(config, "meta"), boxes, labels)
    assert {value.shape for value in losses.values()} == {torch.Size([])}


@pytest.mark.parametrize("config", [FCOS, RETINA], ids=["fcos", "retinanet"])
def test_boxes_where_nothing_is_do_not_count(config):
    """Not even where they are no numbers; and nothing is learned there."""
    boxes, labels = _one(10, 6, 34, 30)
    maps = _maps(config)
    before = detection_loss(config, maps, boxes, labels)
    maps["box_p7"] = torch.full_like(maps["box_p7"], torch.inf, requires_grad=True)
    after = detection_loss(config, maps, boxes, labels)
    assert {name: float(value.detach()) for name, value in after.items()} == {
        name: float(value) for name, value in before.items()
    }
    after["box"].backward()
    assert not maps["box_p7"].grad.any()


@pytest.mark.parametrize("config", [FCOS, RETINA], ids=["fcos", "retinanet"])
def test_perfect_maps_have_a_small_loss_and_gradients_lead_there(config):
    """The loss of maps built from the targets is near zero; that of constant maps is not."""
    boxes, labels = _one(10, 6, 34, 30)
    assign = assign_fcos if config.detector == "fcos" else assign_retinanet
    targets = assign(config, boxes, labels)
    anchors = 1 if config.detector == "fcos" else anchors_per_cell(config)
    cls = torch.full((1, targets.label.shape[1], 3), -12.0)
    cls[0, targets.label[0] >= 0, 1] = 12.0
    box = targets.box.clamp(-10, 10)
    outputs, offset = {}, 0
    for level, (rows, columns) in zip(config.levels, [(8, 12), (4, 6), (2, 3), (1, 2), (1, 1)], strict=True):
        count = rows * columns * anchors
        for kind, values in (("cls", cls), ("box", box)):
            part = values[:, offset : offset + count].reshape(1, rows, columns, -1)
            outputs[f"{kind}_{level}"] = part.permute(0, 3, 1, 2).clone()
        quality = centreness(targets.box[:, offset : offset + count].clamp(min=0.1)).clamp(1e-4, 1 - 1e-4)
        if config.detector == "fcos":
            outputs[f"ctr_{level}"] = torch.logit(quality).reshape(1, 1, rows, columns)
        offset += count
    losses = detection_loss(config, outputs, boxes, labels)
    assert float(losses["cls"]) < 1e-3 and float(losses["box"]) < 1e-3
    worse = {k: torch.ones_like(v, requires_grad=True) for k, v in outputs.items()}
    bad = detection_loss(config, worse, boxes, labels)
    assert float(bad["cls"].detach()) > 1
    sum(bad.values()).backward()
    assert float(worse["cls_p3"].grad.abs().sum()) > 0 and float(worse["box_p3"].grad.abs().sum()) > 0
