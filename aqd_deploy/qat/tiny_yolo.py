"""Tiny-YOLOv2's body (Redmon and Farhadi 2017, yolov2-tiny): convolutions with leaky ReLU and max-pools."""

from __future__ import annotations

import itertools

import torch.nn.functional as F
from torch import Tensor, nn

from aqd_deploy.qat.config import ModelConfig
from aqd_deploy.qat.layers import ConvBatchNorm, Stream
from aqd_deploy.qat.resnet import ConvFactory

CHANNELS = (16, 32, 64, 128, 256, 512, 1024, 1024)
LEAST_CHANNELS = 8
LEAK = 0.1


def widths(config: ModelConfig) -> list[int]:
    """The channels of the convolutions."""
    return [max(LEAST_CHANNELS, round(each * config.width)) for each in CHANNELS]


class HaltingPool(nn.Module):
    """Max-pool 2x2 of stride 1 that keeps the map's size: padded right and below, with nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=float("-inf")), 2, 1)


class TinyYolo(nn.Module):
    """Eight convolutions `layers[i]`, behind the first six a max-pool, whose stride is 2 five times, then 1.

    forward takes the image minus its mean and gives the map of stride 32, in a list.
    """

    def __init__(self, config: ModelConfig, make_first: ConvFactory, make: ConvFactory) -> None:
        super().__init__()
        counts = widths(config)
        convolutions = [make_first(3, counts[0], 3)]
        convolutions += [make(*pair, 3, leak=LEAK) for pair in itertools.pairwise(counts)]
        self.layers = nn.ModuleList(ConvBatchNorm(conv, relu=True, leak=LEAK) for conv in convolutions)
        self.pools = nn.ModuleList([*(nn.MaxPool2d(2) for _ in range(5)), HaltingPool()])

    def forward(self, image: Tensor) -> list[Tensor]:
        stream = Stream(image)
        for index, layer in enumerate(self.layers):
            stream = layer(stream)
            if index < len(self.pools):
                stream = Stream(self.pools[index](stream.value))
        return [stream.value]
