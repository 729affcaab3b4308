"""The feature pyramid: batch norm and ReLU behind every convolution keep unsigned quantizers right."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from aqd_deploy.qat.layers import ConvBatchNorm, SkipAdd, Stream
from aqd_deploy.qat.resnet import ConvFactory


class FPN(nn.Module):
    """P3 to P7 from C3 to C5; all levels have `channels` channels.

    `lateral[i]` (1x1) and `output[i]` (3x3) belong to C(3+i); `skip[i]` adds the upsampled sum of level 4+i
    to lateral 3+i. `p6` is 3x3 stride 2 on C5, `p7` 3x3 stride 2 on P6.
    """

    def __init__(self, in_channels: tuple[int, ...], channels: int, make: ConvFactory) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(ConvBatchNorm(make(c, channels, 1), relu=True) for c in in_channels)
        self.skip = nn.ModuleList(SkipAdd() for _ in in_channels[1:])
        self.output = nn.ModuleList(
            ConvBatchNorm(make(channels, channels, 3), relu=True) for _ in in_channels
        )
        self.p6 = ConvBatchNorm(make(in_channels[-1], channels, 3, 2), relu=True)
        self.p7 = ConvBatchNorm(make(channels, channels, 3, 2), relu=True)

    def forward(self, c3: Stream, c4: Stream, c5: Stream) -> list[Tensor]:
        sums = [self.lateral[2](c5)]
        for index, features in ((1, c4), (0, c3)):
            above = sums[0]
            upsampled = Stream(F.interpolate(above.value, scale_factor=2, mode="nearest"), above.scale)
            sums.insert(0, self.skip[index](self.lateral[index](features), upsampled))
        outputs = [output(stream).value for output, stream in zip(self.output, sums, strict=True)]
        p6 = self.p6(c5)
        return [*outputs, p6.value, self.p7(p6).value]
