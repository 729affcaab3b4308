"""Which cell or anchor of the pyramid learns which object: FCOS centre sampling and RetinaNet IoU matching.

Boxes are float32 [N, M, 4] (x1, y1, x2, y2 in pixels), labels int64 [N, M] with -1 in unused places; M may
be 0. Everything is computed on the device of the boxes.
Positions run over the levels, P3 first, each level row by row (and over a cell's anchors, ratio-major, for
RetinaNet), which is the order of `flatten_maps`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from aqd_deploy.qat.config import ModelConfig

BACKGROUND, IGNORED = -1, -2
CENTRE_RADIUS = 1.5
REGRESS_LIMIT = 4.0
LEAST_DISTANCE = 0.1
POSITIVE_IOU, NEGATIVE_IOU = 0.5, 0.4


class Targets(NamedTuple):
    """Per position: `label` int64 [N, P] (class, BACKGROUND or IGNORED) and `box` float32 [N, P, 4].

    FCOS: `box` is (l, t, r, b) in strides. RetinaNet: (dx, dy, dw, dh) against the anchor, without weights.
    """

    label: Tensor
    box: Tensor


def pyramid_cells(config: ModelConfig, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Cell centres float32 [P, 2] (x, y in pixels, (i + 0.5)·stride) and their strides, float32 [P]."""
    centres, strides = [], []
    for stride in config.strides:
        rows, columns = math.ceil(config.image_height / stride), math.ceil(config.image_width / stride)
        y, x = torch.meshgrid(
            torch.arange(rows, device=device), torch.arange(columns, device=device), indexing="ij"
        )
        centres.append((torch.stack([x, y], dim=-1).reshape(-1, 2) + 0.5) * stride)
        strides.append(torch.full((rows * columns,), float(stride), device=device))
    return torch.cat(centres), torch.cat(strides)


def pyramid_anchors(config: ModelConfig, device: torch.device | None = None) -> Tensor:
    """RetinaNet's anchors, float32 [P, 4] (x1, y1, x2, y2): base·stride·scale large, h/w = ratio."""
    centres, strides = pyramid_cells(config, device)
    shapes = [
        (config.anchor_base * scale / math.sqrt(ratio), config.anchor_base * scale * math.sqrt(ratio))
        for ratio in config.anchor_ratios
        for scale in config.anchor_scales
    ]
    half = torch.tensor(shapes, device=device)[None] * strides[:, None, None] / 2
    centre = centres[:, None]
    return torch.cat([centre - half, centre + half], dim=-1).reshape(-1, 4)


def flatten_maps(outputs: dict[str, Tensor], kind: str, channels: int, levels: tuple[str, ...]) -> Tensor:
    """The maps `kind_p3` … as one tensor [N, P, channels]; an anchor's channels lie together in a map."""
    flat = []
    for level in levels:
        value = outputs[f"{kind}_{level}"]
        batch, depth, height, width = value.shape
        value = value.reshape(batch, depth // channels, channels, height, width)
        flat.append(value.permute(0, 3, 4, 1, 2).reshape(batch, -1, channels))
    return torch.cat(flat, dim=1)


def _with_a_place(boxes: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The same with one more place, unused, so that images without any object have one; unused boxes are
    0, whatever they were.
    """
    labels = F.pad(labels, (0, 1), value=BACKGROUND)
    used = (labels >= 0)[..., None]
    return torch.where(used, F.pad(boxes, (0, 0, 0, 1)), 0.0), labels


def assign_fcos(config: ModelConfig, boxes: Tensor, labels: Tensor) -> Targets:
    """FCOS: cells inside a box and near its centre (1.5 strides), on the level whose range holds the box.

    A level is responsible while the largest of l, t, r, b is at most four strides (and more than on the level
    before). The cell that holds the centre counts as inside even where a narrow box misses every cell centre.
    Of several boxes the smallest wins.
    """
    boxes, labels = _with_a_place(boxes, labels)
    cells, strides = pyramid_cells(config, boxes.device)
    low = torch.where(strides == min(config.strides), 0.0, strides * REGRESS_LIMIT / 2)
    high = torch.where(strides == max(config.strides), math.inf, strides * REGRESS_LIMIT)
    x, y = cells[:, 0, None], cells[:, 1, None]
    x1, y1, x2, y2 = (boxes[:, None, :, k] for k in range(4))
    distances = torch.stack([x - x1, y - y1, x2 - x, y2 - y], dim=-1)
    reach = distances.amax(dim=-1)
    off_centre = torch.maximum((x - (x1 + x2) / 2).abs(), (y - (y1 + y2) / 2).abs())
    inside = (distances.amin(dim=-1) > 0) & (off_centre < CENTRE_RADIUS * strides[:, None])
    candidate = inside | (off_centre <= strides[:, None] / 2)
    candidate &= (reach > low[:, None]) & (reach <= high[:, None]) & (labels[:, None] >= 0)
    area = ((x2 - x1) * (y2 - y1)).expand_as(reach)
    smallest, chosen = torch.where(candidate, area, math.inf).min(dim=-1)
    label = torch.where(torch.isfinite(smallest), labels.gather(1, chosen), BACKGROUND)
    box = distances.gather(2, chosen[..., None, None].expand(-1, -1, 1, 4)).squeeze(2)
    return Targets(label, (box / strides[:, None]).clamp(min=LEAST_DISTANCE))


def centreness(distances: Tensor) -> Tensor:
    """√(min(l,r)/max(l,r) · min(t,b)/max(t,b)) of (l, t, r, b) [..., 4]: 1 in the middle of a box."""
    left, top, right, bottom = distances.unbind(-1)
    horizontal = torch.minimum(left, right) / torch.maximum(left, right)
    vertical = torch.minimum(top, bottom) / torch.maximum(top, bottom)
    return torch.sqrt((horizontal * vertical).clamp(0, 1))


def pairwise_iou(first: Tensor, second: Tensor) -> Tensor:
    """IoU of boxes [..., A, 4] and [..., B, 4], float32 [..., A, B]; 0 for empty boxes."""
    low = torch.maximum(first[..., :, None, :2], second[..., None, :, :2])
    high = torch.minimum(first[..., :, None, 2:], second[..., None, :, 2:])
    overlap = (high - low).clamp(min=0).prod(dim=-1)
    areas = [(b[..., 2:] - b[..., :2]).clamp(min=0).prod(dim=-1) for b in (first, second)]
    union = areas[0][..., :, None] + areas[1][..., None, :] - overlap
    return overlap / union.clamp(min=1e-9)


def assign_retinanet(config: ModelConfig, boxes: Tensor, labels: Tensor) -> Targets:
    """RetinaNet: positive from IoU 0.5, background below 0.4, ignored between; each object has its best ones.

    The low-quality matches (an object's best anchor, whatever its IoU) are what lets small objects be
    learned.
    """
    boxes, labels = _with_a_place(boxes, labels)
    anchors = pyramid_anchors(config, boxes.device)
    iou = pairwise_iou(anchors[None], boxes) * (labels >= 0)[:, None]
    best, chosen = iou.max(dim=-1)
    per_object = iou.amax(dim=1, keepdim=True)
    rescued = (iou == per_object) & (per_object > 0)
    is_rescued = rescued.any(dim=-1)
    chosen = torch.where(is_rescued, torch.where(rescued, iou, -1.0).argmax(dim=-1), chosen)
    label = labels.gather(1, chosen)
    label = torch.where((best >= POSITIVE_IOU) | is_rescued, label, IGNORED)
    label = torch.where((best < NEGATIVE_IOU) & ~is_rescued, BACKGROUND, label)
    matched = boxes.gather(1, chosen[..., None].expand(-1, -1, 4))
    return Targets(label, encode_boxes(anchors, matched))


def encode_boxes(anchors: Tensor, boxes: Tensor) -> Tensor:
    """(dx, dy, dw, dh) of boxes [..., 4] against anchors [..., 4]: offsets in anchor sizes, log of sizes."""
    anchor_size = anchors[..., 2:] - anchors[..., :2]
    size = (boxes[..., 2:] - boxes[..., :2]).clamp(min=1e-3)
    offset = ((boxes[..., :2] + boxes[..., 2:]) - (anchors[..., :2] + anchors[..., 2:])) / (2 * anchor_size)
    return torch.cat([offset, torch.log(size / anchor_size)], dim=-1)
