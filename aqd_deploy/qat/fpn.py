"""The feature pyramid: batch norm and ReLU behind every convolution keep unsigned quantizers right; float
networks of other frameworks have a bias alone.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from aqd_deploy.qat.config import ModelConfig
from aqd_deploy.qat.layers import ConvBatchNorm, ConvBias, SkipAdd, Stream
from aqd_deploy.qat.resnet import ConvFactory


class FPN(nn.Module):
    """P3 to P7 from C3 to C5; all levels have the same channels.

    `lateral[i]` (1x1) and `output[i]` (3x3) belong to C(3+i); `skip[i]` adds the upsampled sum of level 4+i
    to lateral 3+i. `p6` is 3x3 stride 2 on C5 or P5, `p7` 3x3 stride 2 on ReLU(P6).
    """

    def __init__(self, in_channels: tuple[int, ...], config: ModelConfig, make: ConvFactory) -> None:
        super().__init__()
        channels = config.fpn_channels
        self.p6_from = config.p6_from

        def layer(*sizes: int) -> ConvBatchNorm | ConvBias:
            if config.pyramid == "bias":
                return ConvBias(make(*sizes, bias=True))
            return ConvBatchNorm(make(*sizes), relu=True)

        self.lateral = nn.ModuleList(layer(c, channels, 1) for c in in_channels)
        self.skip = nn.ModuleList(SkipAdd() for _ in in_channels[1:])
        self.output = nn.ModuleList(layer(channels, channels, 3) for _ in in_channels)
        self.p6 = layer(in_channels[-1] if config.p6_from == "c5" else channels, channels, 3, 2)
        self.p7 = layer(channels, channels, 3, 2)

    def forward(self, c3: Stream, c4: Stream, c5: Stream) -> list[Tensor]:
        sums = [self.lateral[2](c5)]
        for index, features in ((1, c4), (0, c3)):
            above = sums[0]
            upsampled = Stream(F.interpolate(above.value, scale_factor=2, mode="nearest"), above.scale)
            sums.insert(0, self.skip[index](self.lateral[index](features), upsampled))
        outputs = [output(stream) for output, stream in zip(self.output, sums, strict=True)]
        p6 = self.p6(c5 if self.p6_from == "c5" else outputs[-1])
        p7 = self.p7(Stream(F.relu(p6.value), p6.scale))
        return [level.value for level in (*outputs, p6, p7)]
