"""YOLOv2 (Redmon and Farhadi 2017): every cell has anchors, each of which says where, how sure, and what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np

from aqd_deploy.detection.detectors.contract import Level, LevelBoxes, MapDetector, Places
from aqd_deploy.detection.detectors.retinanet import LARGEST_LOG_SIDE, anchors_check, level_sides
from aqd_deploy.detection.maps import Candidates, OutputMap, about, anchors_of, by_place, cells_of, sigmoid
from aqd_deploy.schema import Check

BOX = 5
"""Channels of an anchor in front of its classes: x, y, width, height, objectness, in Darknet's order."""


@dataclass(frozen=True)
class Yolov2(MapDetector):
    """`map` [anchors·(5 + classes)]: of each anchor x, y, w, h, objectness and logits of the classes.

    The box's centre is (cell + σ(x, y)) · stride, its sides anchor · exp(w, h); its score is σ(objectness)
    times the softmax of the classes. `sides` are the anchors' by stride: float64 [anchors, 2] (width, height)
    in pixels. A cell whose objectness, as an integer, cannot reach the threshold is left out before anything
    becomes a real number.
    """

    name = "yolov2"
    kinds = ("map",)
    keys: ClassVar[Mapping[str, Check]] = {**MapDetector.keys, "anchors": anchors_check}
    optional_keys: ClassVar[Mapping[str, Check]] = {}
    nms_iou = 0.45

    sides: Mapping[int, np.ndarray] = field(kw_only=True)

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Self:
        return cls(len(entry["classes"]), sides=level_sides(entry["anchors"], entry["strides"]))

    @property
    def anchors_per_cell(self) -> int:
        return len(next(iter(self.sides.values())))

    def channels(self) -> Mapping[str, int]:
        return {"map": self.anchors_per_cell * (BOX + self.classes)}

    def least_probability(self, score: float) -> float:
        return score

    def decode(
        self, maps: Mapping[str, OutputMap], stride: int, score_threshold: float, most: int
    ) -> LevelBoxes:
        whole, width = maps["map"], BOX + self.classes
        found = Candidates.above(_channels(whole, BOX - 1, width), score_threshold)
        first = found.channel * width

        def values(offset: int) -> np.ndarray:
            return whole.take(first + offset, found.y, found.x)

        logits = np.stack([values(BOX + k) for k in range(self.classes)], axis=1)
        scores = found.scores[:, None] * _softmax(logits)
        place, label = np.nonzero(scores > score_threshold)
        best = np.argsort(-scores[place, label], kind="stable")[:most]
        place, label = place[best], label[best]
        terms = np.stack([values(k) for k in range(BOX - 1)], axis=1)
        boxes = _boxes(found.centres(stride, 0), self.sides[stride][found.channel], terms, stride)
        return boxes[place], scores[place, label], label.astype(np.int64)

    def everywhere(self, outputs: Mapping[str, np.ndarray], level: Level) -> Places:
        """See `Detector`."""
        whole, anchors = outputs[level.outputs["map"]], self.sides[level.stride]
        terms = by_place(whole, len(anchors))
        corners = cells_of(whole, len(anchors)) * level.stride
        boxes = _boxes(corners, anchors_of(whole, anchors), terms[:, : BOX - 1], level.stride)
        return Places(sigmoid(terms[:, BOX - 1 : BOX]) * _softmax(terms[:, BOX:]), boxes)


def _softmax(logits: np.ndarray) -> np.ndarray:
    """Of each row."""
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def _boxes(corners: np.ndarray, sides: np.ndarray, terms: np.ndarray, stride: int) -> np.ndarray:
    """Boxes [n, 4] of their terms x, y, w, h [n, 4], with the sides of anchors and the upper left corners of
    cells, [n, 2] each.
    """
    longer = np.exp(np.minimum(terms[:, 2:], LARGEST_LOG_SIDE))
    return about(corners + sigmoid(terms[:, :2]) * stride, sides * longer)


def _channels(whole: OutputMap, first: int, step: int) -> OutputMap:
    """Every `step`-th channel of a map from `first` on."""
    scale = whole.scale if whole.scale is None or len(whole.scale) == 1 else whole.scale[first::step]
    return OutputMap(whole.name, whole.values[first::step], scale)
