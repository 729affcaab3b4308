"""ResNet-18/34/50 with a width multiplier, every convolution quantized (the stem with 8 bits)."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from aqd_deploy.qat.config import ModelConfig
from aqd_deploy.qat.layers import ConvBatchNorm, QuantConv2d, SkipAdd, Stream

ConvFactory = Callable[..., QuantConv2d]

BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3)}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions (`conv1` with the stride) and a skip; `downsample` is None for the identity.

    It has no 1x1 convolution that a stride could be in.
    """

    expansion = 1

    def __init__(
        self, make: ConvFactory, in_channels: int, channels: int, stride: int, stride_in_1x1: bool
    ) -> None:
        super().__init__()
        self.conv1 = ConvBatchNorm(make(in_channels, channels, 3, stride), relu=True)
        self.conv2 = ConvBatchNorm(make(channels, channels, 3), relu=False)
        self.downsample = _downsample(make, in_channels, channels, stride)
        self.skip = SkipAdd()

    def forward(self, stream: Stream) -> Stream:
        identity = stream if self.downsample is None else self.downsample(stream)
        return _relu(self.skip(self.conv2(self.conv1(stream)), identity))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 to four times the channels, and a skip; the stride is in the 3x3 convolution, or in the
    first (`stride_in_1x1`).
    """

    expansion = 4

    def __init__(
        self, make: ConvFactory, in_channels: int, channels: int, stride: int, stride_in_1x1: bool
    ) -> None:
        super().__init__()
        first, second = (stride, 1) if stride_in_1x1 else (1, stride)
        self.conv1 = ConvBatchNorm(make(in_channels, channels, 1, first), relu=True)
        self.conv2 = ConvBatchNorm(make(channels, channels, 3, second), relu=True)
        self.conv3 = ConvBatchNorm(make(channels, channels * self.expansion, 1), relu=False)
        self.downsample = _downsample(make, in_channels, channels * self.expansion, stride)
        self.skip = SkipAdd()

    def forward(self, stream: Stream) -> Stream:
        identity = stream if self.downsample is None else self.downsample(stream)
        return _relu(self.skip(self.conv3(self.conv2(self.conv1(stream))), identity))


def _downsample(make: ConvFactory, in_channels: int, out_channels: int, stride: int) -> ConvBatchNorm | None:
    if stride == 1 and in_channels == out_channels:
        return None
    return ConvBatchNorm(make(in_channels, out_channels, 1, stride), relu=False)


def _relu(stream: Stream) -> Stream:
    return Stream(F.relu(stream.value, inplace=True), stream.scale)


class ResNet(nn.Module):
    """`stem` (7x7 stride 2), max-pool 3x3 stride 2, `layer1` to `layer4`; forward gives C3, C4 and C5.

    `channels` are the widths of C3, C4 and C5. The stem's input is the image minus its mean: whole numbers,
    which need no quantizer.
    """

    def __init__(self, config: ModelConfig, make_first: ConvFactory, make: ConvFactory) -> None:
        super().__init__()
        depth = config.backbone
        block: type[BasicBlock] | type[Bottleneck] = Bottleneck if depth == "resnet50" else BasicBlock
        base = max(8, round(64 * config.width))
        self.stem = ConvBatchNorm(make_first(3, base, 7, 2), relu=True)
        self.pool = nn.MaxPool2d(3, 2, 1)
        in_channels = base
        stages = []
        for index, count in enumerate(BLOCKS[depth]):
            channels = base * 2**index
            blocks = []
            for position in range(count):
                stride = 2 if index > 0 and position == 0 else 1
                blocks.append(block(make, in_channels, channels, stride, config.stride_in_1x1))
                in_channels = channels * block.expansion
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.channels = tuple(base * 2**i * block.expansion for i in (1, 2, 3))

    def forward(self, image: Tensor) -> tuple[Stream, Stream, Stream]:
        stem = self.stem(Stream(image))
        c2 = self.layer1(Stream(self.pool(stem.value), stem.scale))
        c3 = self.layer2(c2)
        c4 = self.layer3(c3)
        return c3, c4, self.layer4(c4)
