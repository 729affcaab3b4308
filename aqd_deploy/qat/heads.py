"""The heads of RetinaNet and FCOS: shared over the pyramid's levels, one batch norm a level."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aqd_deploy.qat.layers import MultiLevelConvBatchNorm, QuantConv2d
from aqd_deploy.qat.resnet import ConvFactory

PRIOR_PROBABILITY = 0.01


class LevelScale(nn.Module):
    """A learned positive factor: `value()` = exp(log_scale), float32 scalar."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(()))

    def value(self) -> Tensor:
        return torch.exp(self.log_scale)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.value()


def _tower(channels: int, depth: int, levels: int, make: ConvFactory) -> nn.ModuleList:
    return nn.ModuleList(MultiLevelConvBatchNorm(make(channels, channels, 3), levels) for _ in range(depth))


def _run(tower: nn.ModuleList, features: list[Tensor]) -> list[Tensor]:
    for layer in tower:
        features = layer(features)
    return features


def _predict(conv: QuantConv2d, features: list[Tensor]) -> list[Tensor]:
    weight = conv.quantized_weight()
    return [conv.convolve(feature, weight) for feature in features]


def _initialize_prediction(*convs: QuantConv2d) -> None:
    for conv in convs:
        nn.init.normal_(conv.weight, std=0.01)


class RetinaNetHead(nn.Module):
    """`cls_tower`, `box_tower`, then `cls_score` (anchors·classes maps) and `bbox_pred` (anchors·4 maps)."""

    def __init__(
        self,
        channels: int,
        depth: int,
        levels: int,
        classes: int,
        anchors: int,
        make: ConvFactory,
        make_last: ConvFactory,
    ) -> None:
        super().__init__()
        self.cls_tower = _tower(channels, depth, levels, make)
        self.box_tower = _tower(channels, depth, levels, make)
        self.cls_score = make_last(channels, anchors * classes, 3)
        self.bbox_pred = make_last(channels, anchors * 4, 3)
        _initialize_prediction(self.cls_score, self.bbox_pred)
        assert self.cls_score.bias is not None
        nn.init.constant_(self.cls_score.bias, -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY))

    def forward(self, features: list[Tensor]) -> dict[str, list[Tensor]]:
        return {
            "cls": _predict(self.cls_score, _run(self.cls_tower, features)),
            "box": _predict(self.bbox_pred, _run(self.box_tower, features)),
        }


class FCOSHead(nn.Module):
    """RetinaNet's without anchors, `centerness` on the box tower; box = ReLU(scales[level]·x) in strides."""

    def __init__(
        self, channels: int, depth: int, levels: int, classes: int, make: ConvFactory, make_last: ConvFactory
    ) -> None:
        super().__init__()
        self.cls_tower = _tower(channels, depth, levels, make)
        self.box_tower = _tower(channels, depth, levels, make)
        self.cls_score = make_last(channels, classes, 3)
        self.bbox_pred = make_last(channels, 4, 3)
        self.centerness = make_last(channels, 1, 3)
        self.scales = nn.ModuleList(LevelScale() for _ in range(levels))
        _initialize_prediction(self.cls_score, self.bbox_pred, self.centerness)
        assert self.cls_score.bias is not None and self.bbox_pred.bias is not None
        nn.init.constant_(self.cls_score.bias, -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY))
        # A ReLU that starts below zero would never get a gradient.
        nn.init.constant_(self.bbox_pred.bias, 1.5)

    def forward(self, features: list[Tensor]) -> dict[str, list[Tensor]]:
        box_features = _run(self.box_tower, features)
        box = _predict(self.bbox_pred, box_features)
        return {
            "cls": _predict(self.cls_score, _run(self.cls_tower, features)),
            "box": [F.relu(scale(x)) for scale, x in zip(self.scales, box, strict=True)],
            "ctr": _predict(self.centerness, box_features),
        }
