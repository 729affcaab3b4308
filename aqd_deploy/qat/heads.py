"""What heads are made of: layers that all pyramid levels share, with one batch norm a level."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aqd_deploy.qat.config import BATCH_NORMS, GROUPS, ModelConfig
from aqd_deploy.qat.layers import MultiLevelConvBatchNorm, QuantConv2d, SharedConv
from aqd_deploy.qat.resnet import ConvFactory

Maps = TypeVar("Maps")
"""One map a pyramid level, P3 first."""

PRIOR_PROBABILITY = 0.01
NORM_GROUPS = {"group": GROUPS, "none": None}


class LevelScale(nn.Module):
    """A learned positive factor: `value()` = exp(log_scale), float32 scalar."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(()))

    def value(self) -> Tensor:
        return torch.exp(self.log_scale)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.value()


def tower(config: ModelConfig, make: ConvFactory) -> nn.ModuleList:
    """`head_depth` convolutions, each with a batch norm a level, or what else `head_norm` says."""
    channels, levels = config.fpn_channels, len(config.strides)

    def layer() -> nn.Module:
        if config.head_norm in BATCH_NORMS:
            shared = config.head_norm == "shared"
            return MultiLevelConvBatchNorm(make(channels, channels, 3), levels, shared_norm=shared)
        return SharedConv(make(channels, channels, 3, bias=True), NORM_GROUPS[config.head_norm])

    return nn.ModuleList(layer() for _ in range(config.head_depth))


def initialize_predictions(cls_score: QuantConv2d, *others: QuantConv2d) -> None:
    """Small random weights; every class starts with the probability PRIOR_PROBABILITY."""
    for conv in (cls_score, *others):
        nn.init.normal_(conv.weight, std=0.01)
    assert cls_score.bias is not None
    nn.init.constant_(cls_score.bias, -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY))


class HeadLayers(Protocol[Maps]):
    """What a head can do with the maps of all levels: torch computes it, the export writes it into a
    graph.
    """

    def tower(self, layers: nn.ModuleList, maps: Maps) -> Maps:
        """Through the layers of `tower`, one after the other."""

    def prediction(self, conv: QuantConv2d, maps: Maps) -> Maps:
        """Through the last convolution."""

    def scaled(self, scales: nn.ModuleList, maps: Maps) -> Maps:
        """ReLU(scale·x), with a `LevelScale` a level."""


class Head(nn.Module, ABC):
    """The part of a detector behind the pyramid. forward takes the pyramid's maps, a list from P3, and gives
    as many of every kind.
    """

    @abstractmethod
    def maps(self, layers: HeadLayers[Maps], pyramid: Maps) -> dict[str, Maps]:
        """The output maps by kind, made of `pyramid` by what `layers` can do: said once for training and
        export.
        """

    def forward(self, pyramid: list[Tensor]) -> dict[str, list[Tensor]]:
        return self.maps(_Computed(), pyramid)


class _Computed:
    """`HeadLayers` on tensors."""

    def tower(self, layers: nn.ModuleList, maps: list[Tensor]) -> list[Tensor]:
        for layer in layers:
            maps = layer(maps)
        return maps

    def prediction(self, conv: QuantConv2d, maps: list[Tensor]) -> list[Tensor]:
        weight = conv.quantized_weight()
        return [conv.convolve(x, weight) for x in maps]

    def scaled(self, scales: nn.ModuleList, maps: list[Tensor]) -> list[Tensor]:
        return [F.relu(scale(x)) for scale, x in zip(scales, maps, strict=True)]
