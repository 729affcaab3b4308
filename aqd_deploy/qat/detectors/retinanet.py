"""RetinaNet in training (Lin et al. 2017): its head, IoU matching of anchors, focal and smooth L1 losses."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from aqd_deploy.detection.detectors.retinanet import RetinaNet, level_sides
from aqd_deploy.qat.assign import (
    BACKGROUND,
    IGNORED,
    Targets,
    flatten_maps,
    pairwise_iou,
    pyramid_cells,
    where_positive,
    with_a_place,
)
from aqd_deploy.qat.config import ModelConfig
from aqd_deploy.qat.detectors.contract import TrainedDetector
from aqd_deploy.qat.heads import Head, HeadLayers, Maps, initialize_predictions, tower
from aqd_deploy.qat.losses import classification_loss, mean_over_processes
from aqd_deploy.qat.resnet import ConvFactory

POSITIVE_IOU, NEGATIVE_IOU = 0.5, 0.4
SMOOTH_L1_BETA = 0.1


class RetinaNetHead(Head):
    """`cls_tower`, `box_tower`, then `cls_score` (anchors·classes maps) and `bbox_pred` (anchors·4 maps)."""

    def __init__(self, config: ModelConfig, make: ConvFactory, make_last: ConvFactory) -> None:
        super().__init__()
        channels, anchors = config.fpn_channels, anchors_per_cell(config)
        self.cls_tower = tower(config, make)
        self.box_tower = tower(config, make)
        self.cls_score = make_last(channels, anchors * config.classes, 3)
        self.bbox_pred = make_last(channels, anchors * 4, 3)
        initialize_predictions(self.cls_score, self.bbox_pred)

    def maps(self, layers: HeadLayers[Maps], pyramid: Maps) -> dict[str, Maps]:
        return {
            "cls": layers.prediction(self.cls_score, layers.tower(self.cls_tower, pyramid)),
            "box": layers.prediction(self.bbox_pred, layers.tower(self.box_tower, pyramid)),
        }


def anchors_per_cell(config: ModelConfig) -> int:
    """The anchors of one cell."""
    return len(_sides(config)[config.strides[0]])


def _sides(config: ModelConfig) -> dict[int, np.ndarray]:
    return level_sides(_anchors(config), config.strides)


def pyramid_anchors(config: ModelConfig, device: torch.device | None = None) -> Tensor:
    """All anchors, float32 [P, 4] (x1, y1, x2, y2), those of a cell in the order of the head's channels.
    Made once for a description and a device, and not to be changed.
    """
    return _made_anchors(config.to_json(), device)


@functools.lru_cache(maxsize=8)
def _made_anchors(description: str, device: torch.device | None) -> Tensor:
    config = ModelConfig.from_json(description)
    centres, strides = pyramid_cells(config, device)
    sides = torch.stack([torch.from_numpy(each).float() for each in _sides(config).values()])
    levels = (strides[:, None] == torch.tensor(config.strides, device=device)).int().argmax(dim=1)
    half = sides.to(centres.device)[levels] / 2
    centre = centres[:, None]
    return torch.cat([centre - half, centre + half], dim=-1).reshape(-1, 4)


def assign_retinanet(config: ModelConfig, boxes: Tensor, labels: Tensor) -> Targets:
    """RetinaNet: positive from IoU 0.5, background below 0.4, ignored between; each object has its best ones.

    The low-quality matches (an object's best anchor, whatever its IoU) are what lets small objects be
    learned.
    """
    boxes, labels = with_a_place(boxes, labels)
    anchors = pyramid_anchors(config, boxes.device)
    iou = pairwise_iou(anchors[None], boxes) * (labels >= 0)[:, None]
    best, chosen = iou.max(dim=-1)
    per_object = iou.amax(dim=1, keepdim=True)
    rescued = (iou == per_object) & (per_object > 0)
    is_rescued = rescued.any(dim=-1)
    chosen = torch.where(is_rescued, torch.where(rescued, iou, -1.0).argmax(dim=-1), chosen)
    label = labels.gather(1, chosen)
    label = torch.where((best >= POSITIVE_IOU) | is_rescued, label, IGNORED)
    label = torch.where((best < NEGATIVE_IOU) & ~is_rescued, BACKGROUND, label)
    matched = boxes.gather(1, chosen[..., None].expand(-1, -1, 4))
    return Targets(label, encode_boxes(anchors, matched))


def encode_boxes(anchors: Tensor, boxes: Tensor) -> Tensor:
    """(dx, dy, dw, dh) of boxes [..., 4] against anchors [..., 4]: offsets in anchor sizes, log of sizes."""
    anchor_size = anchors[..., 2:] - anchors[..., :2]
    size = (boxes[..., 2:] - boxes[..., :2]).clamp(min=1e-3)
    offset = ((boxes[..., :2] + boxes[..., 2:]) - (anchors[..., :2] + anchors[..., 2:])) / (2 * anchor_size)
    return torch.cat([offset, torch.log(size / anchor_size)], dim=-1)


def retinanet_loss(
    config: ModelConfig, outputs: dict[str, Tensor], boxes: Tensor, labels: Tensor
) -> dict[str, Tensor]:
    """`cls` and `box` of a batch; boxes float32 [N, M, 4], labels int64 [N, M], -1 where unused."""
    targets = assign_retinanet(config, boxes, labels)
    positive = targets.label >= 0
    normalizer = mean_over_processes(positive.sum().float())
    logits = flatten_maps(outputs, "cls", config.classes, config.levels)
    predicted = where_positive(flatten_maps(outputs, "box", 4, config.levels), targets.box, positive)
    box = F.smooth_l1_loss(predicted, targets.box, beta=SMOOTH_L1_BETA, reduction="sum")
    return {"cls": classification_loss(logits, targets.label, normalizer), "box": box / normalizer}


def _anchors(config: ModelConfig) -> dict[str, Any]:
    """What the manifest says of the anchors."""
    if config.anchor_sides:
        return {"sides": [[list(sides) for sides in level] for level in config.anchor_sides]}
    scales, ratios = list(config.anchor_scales), list(config.anchor_ratios)
    return {"base": config.anchor_base, "scales": scales, "ratios": ratios}


RETINANET = TrainedDetector(
    RetinaNet, RetinaNetHead, retinanet_loss, lambda config: {"anchors": _anchors(config)}
)
