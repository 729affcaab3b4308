"""Small float networks with random weights, in torch: what the writers of quantized files are given.

Weights are drawn so that activations keep their size from layer to layer; no two channels are alike.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

SIZE = 32
"""Height and width of every network's image [1, 3, SIZE, SIZE]."""


def conv(inside: int, out: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution that halves the map at stride 2."""
    return nn.Conv2d(inside, out, kernel, stride, kernel // 2, groups=groups)


def block(inside: int, out: int, activation: nn.Module, stride: int = 1, groups: int = 1, kernel: int = 3):
    """Convolution, batch norm, activation."""
    return nn.Sequential(conv(inside, out, kernel, stride, groups), nn.BatchNorm2d(out), activation)


class Residual(nn.Module):
    """Two residual blocks behind a max-pool, and a head that is a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = block(3, 16, nn.ReLU(), 2)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.first = nn.Sequential(block(16, 16, nn.ReLU()), conv(16, 16), nn.BatchNorm2d(16))
        self.second = nn.Sequential(block(16, 24, nn.ReLU(), 2), conv(24, 24), nn.BatchNorm2d(24))
        self.down = nn.Sequential(conv(16, 24, 1, 2), nn.BatchNorm2d(24))
        self.head = conv(24, 8, 1)

    def forward(self, x):
        x = self.pool(self.stem(x))
        x = F.relu(self.first(x) + x)
        x = F.relu(self.second(x) + self.down(x))
        return self.head(x)


class MobileNet(nn.Module):
    """Inverted residuals: 1x1, depthwise, 1x1, with ReLU6 and a sum without activation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = block(3, 8, nn.ReLU6(), 2)
        self.parts = nn.ModuleList(
            [self.part(8, 24, 8, 1), self.part(8, 24, 16, 2), self.part(16, 32, 16, 1)]
        )
        self.head = conv(16, 8, 1)

    def part(self, inside, wide, out, stride):
        return nn.Sequential(
            block(inside, wide, nn.ReLU6(), kernel=1),
            block(wide, wide, nn.ReLU6(), stride, groups=wide),
            conv(wide, out, 1),
            nn.BatchNorm2d(out),
        )

    def forward(self, x):
        first, second, third = self.parts
        x = self.stem(x)
        x = first(x) + x
        x = second(x)
        return self.head(third(x) + x)


class Yolo(nn.Module):
    """SiLU, a split, three 5x5 max-pools that are joined, and a pyramid by nearest upsampling."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = block(3, 16, nn.SiLU(), 2)
        self.down = block(16, 16, nn.SiLU(), 2)
        self.part = block(8, 8, nn.SiLU())
        self.joined = block(24, 16, nn.SiLU(), kernel=1)
        self.reduce = block(16, 8, nn.SiLU(), kernel=1)
        self.pool = nn.MaxPool2d(5, 1, 2)
        self.expand = block(32, 16, nn.SiLU(), kernel=1)
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.heads = nn.ModuleList([conv(32, 8, 1), conv(16, 8, 1)])

    def forward(self, x):
        fine = self.stem(x)
        x = self.down(fine)
        a, b = x.chunk(2, 1)
        x = self.joined(torch.cat([a, b, self.part(b) + b], 1))
        y = self.reduce(x)
        p = self.pool(y)
        q = self.pool(p)
        x = self.expand(torch.cat([y, p, q, self.pool(q)], 1))
        return self.heads[0](torch.cat([self.up(x), fine], 1)), self.heads[1](x)


class SqueezeExcite(nn.Module):
    """Hard-swish, and channels weighted by a hard sigmoid of their averages."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = block(3, 16, nn.Hardswish(), 2)
        self.depthwise = block(16, 16, nn.Hardswish(), 2, groups=16)
        self.squeeze = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), conv(16, 8, 1), nn.ReLU(), conv(8, 16, 1), nn.Hardsigmoid()
        )
        self.project = nn.Sequential(conv(16, 16, 1), nn.BatchNorm2d(16))
        self.head = conv(16, 8, 1)

    def forward(self, x):
        x = self.stem(x)
        y = self.depthwise(x)
        y = self.project(y * self.squeeze(y))
        return self.head(F.hardswish(y))


class NanoDet(nn.Module):
    """A pyramid with leaky ReLU, linear upsampling, and zero padding of its own."""

    def __init__(self) -> None:
        super().__init__()
        leaky = nn.LeakyReLU(0.1)
        self.stem = block(3, 16, leaky, 2)
        self.down = nn.Sequential(nn.Conv2d(16, 16, 3, 2), nn.BatchNorm2d(16), leaky)
        self.lateral = block(16, 16, leaky, kernel=1)
        self.fuse = nn.Sequential(block(16, 16, leaky, groups=16, kernel=5), block(16, 16, leaky, kernel=1))
        self.heads = nn.ModuleList([conv(16, 8, 1), conv(16, 8, 1)])

    def forward(self, x):
        fine = self.stem(x)
        coarse = self.down(F.pad(fine, (0, 1, 0, 1)))
        up = F.interpolate(self.lateral(coarse), scale_factor=2.0, mode="bilinear", align_corners=False)
        fine = self.fuse(fine + up)
        return self.heads[0](fine), self.heads[1](coarse)


class Transposed(nn.Module):
    """A head of transposed convolutions: heat maps at twice the size."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(block(3, 16, nn.ReLU(), 2), block(16, 16, nn.ReLU(), 2))
        self.up = nn.Sequential(nn.ConvTranspose2d(16, 16, 4, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.grow = nn.ConvTranspose2d(16, 8, 2, 2)
        self.head = conv(8, 4, 1)

    def forward(self, x):
        return self.head(F.relu(self.grow(self.up(self.stem(x)))))


class Classifier(nn.Module):
    """An average, a flattened map and two linear layers; Softmax at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(block(3, 16, nn.ReLU(), 2), block(16, 16, nn.ReLU(), 2), nn.AvgPool2d(2))
        self.hidden = nn.Linear(16 * 16, 24)
        self.last = nn.Linear(24, 10)

    def forward(self, x):
        x = torch.flatten(self.body(x), 1)
        return torch.softmax(self.last(F.relu(self.hidden(x))), 1)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "residual": Residual,
    "mobilenet": MobileNet,
    "yolo": Yolo,
    "squeeze": SqueezeExcite,
    "nanodet": NanoDet,
    "transposed": Transposed,
    "classifier": Classifier,
}


def network(name: str) -> nn.Module:
    """The network of that name, for inference, always with the same weights."""
    seed = sorted(NETWORKS).index(name)
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    module = NETWORKS[name]().eval()
    with torch.no_grad():
        for each in module.modules():
            if isinstance(each, nn.BatchNorm2d):
                each.weight.copy_(torch.rand(each.weight.shape, generator=generator) + 0.5)
                each.bias.copy_(torch.randn(each.bias.shape, generator=generator) * 0.3)
                each.running_mean.copy_(torch.randn(each.bias.shape, generator=generator) * 0.2)
                each.running_var.copy_(torch.rand(each.bias.shape, generator=generator) + 0.5)
            elif isinstance(each, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                fan = (
                    each.weight[0].numel()
                    if not isinstance(each, nn.ConvTranspose2d)
                    else 4 * each.weight.shape[0]
                )
                each.weight.copy_(torch.randn(each.weight.shape, generator=generator) * (1.6 / fan**0.5))
    return module


def images(count: int = 4, seed: int = 0) -> list[np.ndarray]:
    """Float images [1, 3, SIZE, SIZE] within [-2, 2]: smooth blobs and noise."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        coarse = rng.normal(0, 1, (3, 4, 4)).repeat(SIZE // 4, 1).repeat(SIZE // 4, 2)
        found.append(np.clip(coarse + rng.normal(0, 0.3, (3, SIZE, SIZE)), -2, 2)[None].astype(np.float32))
    return found
