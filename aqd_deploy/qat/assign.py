"""What the assignments of all detectors share: which cell or anchor of the pyramid learns which object.

Boxes are float32 [N, M, 4] (x1, y1, x2, y2 in pixels), labels int64 [N, M] with -1 in unused places; M may
be 0. Everything is computed on the device of the boxes.
Positions run over the levels, P3 first, each level row by row (and over a cell's anchors where it has
several), which is the order of `flatten_maps`.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from aqd_deploy.qat.config import ModelConfig

BACKGROUND, IGNORED = -1, -2


class Targets(NamedTuple):
    """Per position: `label` int64 [N, P] (class, BACKGROUND or IGNORED) and `box` float32 [N, P, 4], as
    the detector's `box` maps give it.
    """

    label: Tensor
    box: Tensor


def pyramid_cells(config: ModelConfig, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Cell centres float32 [P, 2] (x, y in pixels: (i + cell_offset)·stride) and strides, float32 [P]. Made
    once for a size and a device, and not to be changed.
    """
    size = config.image_height, config.image_width
    return _made_cells(size, tuple(config.strides), config.cell_offset, device)


@functools.lru_cache(maxsize=8)
def _made_cells(
    size: tuple[int, int], all_strides: tuple[int, ...], offset: float, device: torch.device | None
) -> tuple[Tensor, Tensor]:
    centres, strides = [], []
    for stride in all_strides:
        rows, columns = (math.ceil(side / stride) for side in size)
        y, x = torch.meshgrid(
            torch.arange(rows, device=device), torch.arange(columns, device=device), indexing="ij"
        )
        centres.append((torch.stack([x, y], dim=-1).reshape(-1, 2) + offset) * stride)
        strides.append(torch.full((rows * columns,), float(stride), device=device))
    return torch.cat(centres), torch.cat(strides)


def flatten_maps(outputs: dict[str, Tensor], kind: str, channels: int, levels: tuple[str, ...]) -> Tensor:
    """The maps `kind_p3` … as one tensor [N, P, channels]; an anchor's channels lie together in a map."""
    flat = []
    for level in levels:
        value = outputs[f"{kind}_{level}"]
        batch, depth, height, width = value.shape
        value = value.reshape(batch, depth // channels, channels, height, width)
        flat.append(value.permute(0, 3, 4, 1, 2).reshape(batch, -1, channels))
    return torch.cat(flat, dim=1)


def with_a_place(boxes: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The same with one more place, unused, so that images without any object have one; unused boxes are
    0, whatever they were.
    """
    labels = F.pad(labels, (0, 1), value=BACKGROUND)
    used = (labels >= 0)[..., None]
    return torch.where(used, F.pad(boxes, (0, 0, 0, 1)), 0.0), labels


def where_positive(predicted: Tensor, wanted: Tensor, positive: Tensor) -> Tensor:
    """`predicted` [N, P, K] where bool [N, P] `positive` is set, and elsewhere what is `wanted`: without loss
    and without gradient, in a shape that does not depend on the objects.
    """
    return torch.where(positive[..., None], predicted, wanted)


def pairwise_iou(first: Tensor, second: Tensor) -> Tensor:
    """IoU of boxes [..., A, 4] and [..., B, 4], float32 [..., A, B]; 0 for empty boxes."""
    low = torch.maximum(first[..., :, None, :2], second[..., None, :, :2])
    high = torch.minimum(first[..., :, None, 2:], second[..., None, :, 2:])
    overlap = (high - low).clamp(min=0).prod(dim=-1)
    areas = [(b[..., 2:] - b[..., :2]).clamp(min=0).prod(dim=-1) for b in (first, second)]
    union = areas[0][..., :, None] + areas[1][..., None, :] - overlap
    return overlap / union.clamp(min=1e-9)
