"""What bodies of YOLOv2 are made of: convolutions with leaky ReLU, max-pools, space to depth."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aqd_deploy.qat.layers import ConvBatchNorm, Stream

Map = TypeVar("Map")

LEAK = 0.1
LEAST_CHANNELS = 8
DEEPEST = 1024
"""Channels of the map that a body of full width gives."""


def scaled_channels(channels: int, width: float) -> int:
    """The channels of a convolution in a network of this width."""
    return max(LEAST_CHANNELS, round(channels * width))


class HaltingPool(nn.Module):
    """Max-pool 2x2 of stride 1 that keeps the map's size: padded right and below, with nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=float("-inf")), 2, 1)


class SpaceToDepth(nn.Module):
    """Squares of 2x2 pixels become channels, in the order of ONNX's SpaceToDepth: channel (2·a + b)·C + c at
    (i, j) is channel c at (2·i + a, 2·j + b).

    [N, C, H, W] with even H and W → [N, 4·C, H/2, W/2].
    """

    BLOCK = 2

    @classmethod
    def places(cls) -> list[tuple[int, int]]:
        """Row and column of each pixel in its square, in the order of the channels."""
        return [(row, column) for row in range(cls.BLOCK) for column in range(cls.BLOCK)]

    def forward(self, x: Tensor) -> Tensor:
        parts = [x[..., row :: self.BLOCK, column :: self.BLOCK] for row, column in self.places()]
        return torch.cat(parts, dim=1)


class BodyLayers(Protocol[Map]):
    """What a body can do with a map: torch computes it, the export writes it into a graph."""

    def conv_batch_norm(self, module: nn.Module, x: Map) -> Map:
        """Through a `ConvBatchNorm`."""

    def max_pool(self, module: nn.Module, x: Map) -> Map:
        """Through a max-pool 2x2, of stride 2 or a `HaltingPool`."""

    def space_to_depth(self, module: nn.Module, x: Map) -> Map:
        """Through a `SpaceToDepth`."""

    def joined(self, maps: list[Map], name: str) -> Map:
        """The channels of all maps, one map after the other."""


class YoloBody(nn.Module, ABC):
    """A body of stride 32, whose map has `scaled_channels(DEEPEST, width)` channels.

    forward takes the image minus its mean, float32 [N, 3, H, W], and gives the map, in a list.
    """

    @abstractmethod
    def map(self, layers: BodyLayers[Map], image: Map) -> Map:
        """The map, made of the image by what `layers` can do: said once for training and export."""

    def forward(self, image: Tensor) -> list[Tensor]:
        return [self.map(_Computed(), image)]


class _Computed:
    """`BodyLayers` on tensors."""

    def conv_batch_norm(self, module: nn.Module, x: Tensor) -> Tensor:
        assert isinstance(module, ConvBatchNorm)
        return module(Stream(x)).value

    def max_pool(self, module: nn.Module, x: Tensor) -> Tensor:
        return module(x)

    def space_to_depth(self, module: nn.Module, x: Tensor) -> Tensor:
        return module(x)

    def joined(self, maps: list[Tensor], name: str) -> Tensor:
        return torch.cat(maps, dim=1)
