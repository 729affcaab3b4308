"""FCOS in training (Tian et al. 2019): its head, centre sampling, focal, GIoU and centre-ness losses."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aqd_deploy.detection.detectors.fcos import Fcos
from aqd_deploy.qat.assign import (
    BACKGROUND,
    Targets,
    flatten_maps,
    pyramid_cells,
    where_positive,
    with_a_place,
)
from aqd_deploy.qat.config import ModelConfig
from aqd_deploy.qat.detectors.contract import TrainedDetector
from aqd_deploy.qat.heads import Head, HeadLayers, LevelScale, Maps, initialize_predictions, tower
from aqd_deploy.qat.losses import classification_loss, giou_loss, mean_over_processes
from aqd_deploy.qat.resnet import ConvFactory

CENTRE_RADIUS = 1.5
REGRESS_LIMIT = 4.0
LEAST_DISTANCE = 0.1


class FCOSHead(Head):
    """`cls_tower` and `box_tower`, then `cls_score` and `bbox_pred`, and `centerness` on the box tower; box =
    ReLU(scales[level]·x) in strides.
    """

    def __init__(self, config: ModelConfig, make: ConvFactory, make_last: ConvFactory) -> None:
        super().__init__()
        channels, levels = config.fpn_channels, len(config.strides)
        self.cls_tower = tower(config, make)
        self.box_tower = tower(config, make)
        self.cls_score = make_last(channels, config.classes, 3)
        self.bbox_pred = make_last(channels, 4, 3)
        self.centerness = make_last(channels, 1, 3)
        self.scales = nn.ModuleList(LevelScale() for _ in range(levels))
        initialize_predictions(self.cls_score, self.bbox_pred, self.centerness)
        assert self.bbox_pred.bias is not None
        # A ReLU that starts below zero would never get a gradient.
        nn.init.constant_(self.bbox_pred.bias, 1.5)

    def maps(self, layers: HeadLayers[Maps], pyramid: Maps) -> dict[str, Maps]:
        box_features = layers.tower(self.box_tower, pyramid)
        box = layers.prediction(self.bbox_pred, box_features)
        return {
            "cls": layers.prediction(self.cls_score, layers.tower(self.cls_tower, pyramid)),
            "box": layers.scaled(self.scales, box),
            "ctr": layers.prediction(self.centerness, box_features),
        }


def assign_fcos(config: ModelConfig, boxes: Tensor, labels: Tensor) -> Targets:
    """FCOS: cells inside a box and near its centre (1.5 strides), on the level whose range holds the box.

    A level is responsible while the largest of l, t, r, b is at most four strides (and more than on the level
    before). The cell that holds the centre counts as inside even where a narrow box misses every cell centre.
    Of several boxes the smallest wins.
    """
    boxes, labels = with_a_place(boxes, labels)
    cells, strides = pyramid_cells(config, boxes.device)
    low = torch.where(strides == min(config.strides), 0.0, strides * REGRESS_LIMIT / 2)
    high = torch.where(strides == max(config.strides), math.inf, strides * REGRESS_LIMIT)
    x, y = cells[:, 0, None], cells[:, 1, None]
    x1, y1, x2, y2 = (boxes[:, None, :, k] for k in range(4))
    distances = torch.stack([x - x1, y - y1, x2 - x, y2 - y], dim=-1)
    reach = distances.amax(dim=-1)
    off_centre = torch.maximum((x - (x1 + x2) / 2).abs(), (y - (y1 + y2) / 2).abs())
    inside = (distances.amin(dim=-1) > 0) & (off_centre < CENTRE_RADIUS * strides[:, None])
    candidate = inside | (off_centre <= strides[:, None] / 2)
    candidate &= (reach > low[:, None]) & (reach <= high[:, None]) & (labels[:, None] >= 0)
    area = ((x2 - x1) * (y2 - y1)).expand_as(reach)
    smallest, chosen = torch.where(candidate, area, math.inf).min(dim=-1)
    label = torch.where(torch.isfinite(smallest), labels.gather(1, chosen), BACKGROUND)
    box = distances.gather(2, chosen[..., None, None].expand(-1, -1, 1, 4)).squeeze(2)
    return Targets(label, (box / strides[:, None]).clamp(min=LEAST_DISTANCE))


def centreness(distances: Tensor) -> Tensor:
    """√(min(l,r)/max(l,r) · min(t,b)/max(t,b)) of (l, t, r, b) [..., 4]: 1 in the middle of a box."""
    left, top, right, bottom = distances.unbind(-1)
    horizontal = torch.minimum(left, right) / torch.maximum(left, right)
    vertical = torch.minimum(top, bottom) / torch.maximum(top, bottom)
    return torch.sqrt((horizontal * vertical).clamp(0, 1))


def fcos_loss(
    config: ModelConfig, outputs: dict[str, Tensor], boxes: Tensor, labels: Tensor
) -> dict[str, Tensor]:
    """`cls`, `box` and `ctr` of a batch; boxes float32 [N, M, 4], labels int64 [N, M], -1 where unused."""
    targets = assign_fcos(config, boxes, labels)
    positive = targets.label >= 0
    normalizer = mean_over_processes(positive.sum().float())
    quality = centreness(targets.box)
    weight = quality * positive
    predicted = where_positive(flatten_maps(outputs, "box", 4, config.levels), targets.box, positive)
    overlap = giou_loss(predicted.reshape(-1, 4), targets.box.reshape(-1, 4)).reshape(weight.shape)
    ctr = flatten_maps(outputs, "ctr", 1, config.levels).squeeze(-1)
    centre = F.binary_cross_entropy_with_logits(ctr, quality, reduction="none")
    logits = flatten_maps(outputs, "cls", config.classes, config.levels)
    return {
        "cls": classification_loss(logits, targets.label, normalizer),
        "box": (overlap * weight).sum() / mean_over_processes(weight.sum()),
        "ctr": (centre * positive).sum() / normalizer,
    }


# docs/qdq-form.md has the key in the manifest of FCOS, too.
FCOS = TrainedDetector(Fcos, FCOSHead, fcos_loss, lambda _: {"anchors": None})
