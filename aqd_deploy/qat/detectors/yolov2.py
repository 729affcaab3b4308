"""YOLOv2 in training (Redmon and Farhadi 2017): its head, which anchor learns which object, and its losses.

What of the losses is ours: objectness is learned by cross-entropy toward the overlap of the predicted box
with its object, and classes by cross-entropy, where Darknet squares differences; predictions that overlap any
object by more than 0.6 without being its own do not count, as in Darknet. All are sums over a batch divided
by its objects.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aqd_deploy.detection.detectors.yolov2 import BOX, Yolov2
from aqd_deploy.qat.assign import pairwise_iou, with_a_place
from aqd_deploy.qat.config import ModelConfig
from aqd_deploy.qat.detectors.contract import TrainedDetector
from aqd_deploy.qat.heads import PRIOR_PROBABILITY, Head, HeadLayers, Maps
from aqd_deploy.qat.losses import mean_over_processes
from aqd_deploy.qat.resnet import ConvFactory
from aqd_deploy.qat.yolo_body import DEEPEST, LEAK, scaled_channels

OVERLAPPING = 0.6
LARGEST_LOG_SIDE = 4.0
COORDINATES = 2.0


class Yolov2Head(Head):
    """`prediction`, one 1x1 convolution to the maps of all anchors."""

    def __init__(self, config: ModelConfig, make: ConvFactory, make_last: ConvFactory) -> None:
        super().__init__()
        anchors = len(config.anchor_sides[0])
        channels = scaled_channels(DEEPEST, config.width)
        self.prediction = make_last(channels, anchors * (BOX + config.classes), 1, leak=LEAK)
        nn.init.normal_(self.prediction.weight, std=0.01)
        assert self.prediction.bias is not None
        with torch.no_grad():
            prior = -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY)
            self.prediction.bias[BOX - 1 :: BOX + config.classes] = prior

    def maps(self, layers: HeadLayers[Maps], pyramid: Maps) -> dict[str, Maps]:
        return {"map": layers.prediction(self.prediction, pyramid)}


class _Wanted(NamedTuple):
    """For each prediction, float32 [N, P, …] (anchors, then rows, then columns): whether it is an object's
    (`own`), what σ(x, y) and (w, h) shall be (`place`), the box in pixels and the class.
    """

    own: Tensor
    place: Tensor
    box: Tensor
    label: Tensor


def assign_yolov2(config: ModelConfig, cells: tuple[int, int], boxes: Tensor, labels: Tensor) -> _Wanted:
    """An object is learned by the cell of its centre and, there, by the anchor whose sides overlap its most;
    of two objects of one place the later one.
    """
    (stride,), (rows, columns) = config.strides, cells
    anchors = _anchors(config.anchor_sides[0], boxes.device)
    sides = (boxes[..., 2:] - boxes[..., :2]).clamp(min=1e-3)
    centre = (boxes[..., :2] + boxes[..., 2:]) / (2 * stride)
    x, y = (centre[..., k].floor().clamp(0, most - 1) for k, most in enumerate((columns, rows)))
    cell = torch.stack([x, y], dim=-1).long()
    origin = torch.zeros_like(anchors)
    overlap = pairwise_iou(
        torch.cat([torch.zeros_like(sides), sides], dim=-1), torch.cat([origin, anchors], dim=-1)
    )
    anchor = overlap.argmax(dim=-1)
    count = len(anchors) * rows * columns
    index = (anchor * rows + cell[..., 1]) * columns + cell[..., 0]
    # What is unused goes to a place behind the last.
    index = torch.where(labels >= 0, index, count)
    place = torch.cat([centre - cell, torch.log(sides / anchors[anchor])], dim=-1)
    batch = len(boxes)
    values = torch.cat([torch.ones_like(place[..., :1]), place, boxes, labels[..., None].float()], dim=-1)
    table = values.new_zeros(batch, count + 1, values.shape[-1])
    for k in range(values.shape[1]):
        where = index[:, k, None, None].expand(-1, 1, values.shape[-1])
        table = table.scatter(1, where, values[:, k, None])
    table = table[:, :count]
    return _Wanted(table[..., 0] > 0, table[..., 1:5], table[..., 5:9], table[..., 9].long())


def yolov2_loss(
    config: ModelConfig, outputs: dict[str, Tensor], boxes: Tensor, labels: Tensor
) -> dict[str, Tensor]:
    """`obj`, `box` and `cls` of a batch; boxes float32 [N, M, 4], labels int64 [N, M], -1 where unused."""
    (level,) = config.levels
    output = outputs[f"map_{level}"]
    batch, _, rows, columns = output.shape
    anchors = len(config.anchor_sides[0])
    predicted = output.reshape(batch, anchors, BOX + config.classes, rows, columns)
    predicted = predicted.permute(0, 1, 3, 4, 2).reshape(batch, -1, BOX + config.classes)
    boxes, labels = with_a_place(boxes, labels)
    wanted = assign_yolov2(config, (rows, columns), boxes, labels)
    normalizer = mean_over_processes(wanted.own.sum().float())
    own = wanted.own.to(output.dtype)
    with torch.no_grad():
        found = _boxes(config, predicted, rows, columns)
        overlaps = pairwise_iou(found, boxes) * (labels >= 0)[:, None]
        kept = torch.maximum(own, (overlaps.amax(dim=-1) <= OVERLAPPING).to(output.dtype))
        target = own * _matched_iou(found, wanted.box)
        size = (wanted.box[..., 2:] - wanted.box[..., :2]).prod(dim=-1)
        weight = own * (2 - size / (config.image_height * config.image_width))
    objectness = F.binary_cross_entropy_with_logits(predicted[..., 4], target, reduction="none")
    place = torch.cat([predicted[..., :2].sigmoid(), predicted[..., 2:4]], dim=-1)
    distance = ((place - wanted.place) ** 2).sum(dim=-1)
    logarithms = predicted[..., BOX:].log_softmax(dim=-1)
    classes = -logarithms.gather(-1, wanted.label[..., None])[..., 0]
    return {
        "obj": (objectness * kept).sum() / normalizer,
        "box": COORDINATES * (distance * weight).sum() / normalizer,
        "cls": (classes * own).sum() / normalizer,
    }


def _boxes(config: ModelConfig, predicted: Tensor, rows: int, columns: int) -> Tensor:
    """What predictions [N, P, …] say, in pixels: float32 [N, P, 4]."""
    (stride,), device = config.strides, predicted.device
    anchors = _anchors(config.anchor_sides[0], device)
    y, x = torch.meshgrid(
        torch.arange(rows, device=device), torch.arange(columns, device=device), indexing="ij"
    )
    cells = torch.stack([x, y], dim=-1).reshape(1, -1, 2).expand(len(anchors), -1, -1).reshape(-1, 2)
    sides = anchors.repeat_interleave(rows * columns, dim=0)
    centre = (cells + predicted[..., :2].sigmoid()) * stride
    half = sides * predicted[..., 2:4].clamp(max=LARGEST_LOG_SIDE).exp() / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def _matched_iou(first: Tensor, second: Tensor) -> Tensor:
    """IoU of boxes of one shape [..., 4], pair by pair; 0 for empty ones."""
    return pairwise_iou(first[..., None, :], second[..., None, :])[..., 0, 0]


@functools.lru_cache(maxsize=8)
def _anchors(sides: tuple[tuple[float, float], ...], device: torch.device) -> Tensor:
    """Float32 [A, 2], made once, and not to be changed."""
    return torch.tensor(sides, device=device)


def _geometry(config: ModelConfig) -> dict[str, Any]:
    return {"anchors": {"sides": [[list(sides) for sides in level] for level in config.anchor_sides]}}


YOLOV2 = TrainedDetector(Yolov2, Yolov2Head, yolov2_loss, _geometry)
