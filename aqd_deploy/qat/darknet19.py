"""YOLOv2's body (Redmon and Farhadi 2017, Darknet's yolov2): Darknet-19 without its classifier, and what
YOLOv2 adds behind it.
"""

from __future__ import annotations

from torch import nn

from aqd_deploy.qat.config import ModelConfig
from aqd_deploy.qat.layers import ConvBatchNorm
from aqd_deploy.qat.resnet import ConvFactory
from aqd_deploy.qat.yolo_body import (
    DEEPEST,
    LEAK,
    BodyLayers,
    Map,
    SpaceToDepth,
    YoloBody,
    scaled_channels,
)

STAGES = (
    (32,), (64,), (128, 64, 128), (256, 128, 256), (512, 256, 512, 256, 512), (1024, 512, 1024, 512, 1024),
)  # fmt: skip
"""Channels of the convolutions between two max-pools, 3x3 and 1x1 by turns."""
PASSTHROUGH = 64


class Darknet19(YoloBody):
    """`stages[i]`, a max-pool 2x2 between any two of them; `deep`, two more 3x3 convolutions; `passthrough`,
    a 1x1 convolution of the map of stride 16, whose squares become channels in front of those of `deep`;
    `join`, a 3x3 convolution of both.

    Darknet's own [reorg] takes the map's elements in another order than `SpaceToDepth`, also across rows and
    columns, so that weights that were trained with one do not fit the other.
    """

    def __init__(self, config: ModelConfig, make_first: ConvFactory, make: ConvFactory) -> None:
        super().__init__()

        def scaled(channels: int) -> int:
            return scaled_channels(channels, config.width)

        def layer(channels: int, made: int, size: int) -> ConvBatchNorm:
            return ConvBatchNorm(make(channels, made, size, leak=LEAK), relu=True, leak=LEAK)

        (first,), *others = STAGES
        channels = scaled(first)
        stem = ConvBatchNorm(make_first(3, channels, 3), relu=True, leak=LEAK)
        self.stages = nn.ModuleList([nn.ModuleList([stem])])
        for counts in others:
            stage = nn.ModuleList()
            for position, count in enumerate(counts):
                stage.append(layer(channels, scaled(count), 1 if position % 2 else 3))
                channels = scaled(count)
            self.stages.append(stage)
        self.pools = nn.ModuleList(nn.MaxPool2d(2) for _ in others)
        deepest = scaled(DEEPEST)
        self.deep = nn.ModuleList(layer(deepest, deepest, 3) for _ in range(2))
        self.passthrough = layer(scaled(STAGES[-2][-1]), scaled(PASSTHROUGH), 1)
        self.squares = SpaceToDepth()
        self.join = layer(SpaceToDepth.BLOCK**2 * scaled(PASSTHROUGH) + deepest, deepest, 3)

    def map(self, layers: BodyLayers[Map], image: Map) -> Map:
        x = fine = image
        for index, stage in enumerate(self.stages):
            if index:
                fine, x = x, layers.max_pool(self.pools[index - 1], x)
            for layer in stage.children():
                x = layers.conv_batch_norm(layer, x)
        for layer in self.deep:
            x = layers.conv_batch_norm(layer, x)
        squares = layers.space_to_depth(self.squares, layers.conv_batch_norm(self.passthrough, fine))
        return layers.conv_batch_norm(self.join, layers.joined([squares, x], "backbone.route"))
