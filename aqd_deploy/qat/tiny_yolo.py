"""Tiny-YOLOv2's body (Redmon and Farhadi 2017, Darknet's yolov2-tiny)."""

from __future__ import annotations

import itertools

from torch import nn

from aqd_deploy.qat.config import ModelConfig
from aqd_deploy.qat.layers import ConvBatchNorm
from aqd_deploy.qat.resnet import ConvFactory
from aqd_deploy.qat.yolo_body import DEEPEST, LEAK, BodyLayers, HaltingPool, Map, YoloBody, scaled_channels

CHANNELS = (16, 32, 64, 128, 256, 512, 1024, DEEPEST)


class TinyYolo(YoloBody):
    """Eight convolutions `layers[i]`, behind the first six a max-pool, of stride 2 five times, then 1."""

    def __init__(self, config: ModelConfig, make_first: ConvFactory, make: ConvFactory) -> None:
        super().__init__()
        counts = [scaled_channels(each, config.width) for each in CHANNELS]
        convolutions = [make_first(3, counts[0], 3)]
        convolutions += [make(*pair, 3, leak=LEAK) for pair in itertools.pairwise(counts)]
        self.layers = nn.ModuleList(ConvBatchNorm(conv, relu=True, leak=LEAK) for conv in convolutions)
        self.pools = nn.ModuleList([*(nn.MaxPool2d(2) for _ in range(5)), HaltingPool()])

    def map(self, layers: BodyLayers[Map], image: Map) -> Map:
        x = image
        for index, layer in enumerate(self.layers):
            x = layers.conv_batch_norm(layer, x)
            if index < len(self.pools):
                x = layers.max_pool(self.pools[index], x)
        return x
