"""YOLOX (Ge et al., arXiv 2107.08430): one box a cell, by its middle and the logarithms of its sides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from aqd_deploy.detection.detectors.cell_maps import CellMaps
from aqd_deploy.detection.detectors.contract import Level, LevelBoxes
from aqd_deploy.detection.detectors.objectness import scored_places
from aqd_deploy.detection.detectors.retinanet import LARGEST_LOG_SIDE
from aqd_deploy.detection.maps import about, sigmoid


class YoloX(CellMaps):
    """`box` [4] (x, y, w, h), `obj` [1] and `cls` [classes] (logits), or `map`, which has all in this order.

    The middle is (cell + x)·stride, a side exp(w)·stride; a score is σ(obj)·σ(cls).
    """

    name = "yolox"
    kinds = ("box", "obj", "cls", "map")
    may_lack = ("box", "obj", "cls", "map")
    nms_iou = 0.65

    def parts(self) -> Mapping[str, int]:
        return {"box": 4, "obj": 1, "cls": self.classes}

    def read(
        self, outputs: Mapping[str, np.ndarray], described: Mapping[str, Any], level: Level, least: float,
        most: int,
    ) -> LevelBoxes:  # fmt: skip
        """See `Detector`."""
        maps = self.maps(outputs, described, level)
        found = scored_places(maps["obj"], maps["cls"], least, most)
        terms = maps["box"].take(np.arange(4)[:, None], found.y, found.x).T
        boxes = self.boxes(terms, np.stack([found.x, found.y], axis=1), level.stride)
        return boxes, found.scores, found.label

    def scores(self, terms: Mapping[str, np.ndarray]) -> np.ndarray:
        return sigmoid(terms["obj"]) * sigmoid(terms["cls"])

    def boxes(self, terms: np.ndarray, cells: np.ndarray, stride: int) -> np.ndarray:
        return middle_boxes(terms, cells, stride)


def middle_boxes(terms: np.ndarray, cells: np.ndarray, strides: int | np.ndarray) -> np.ndarray:
    """Boxes float64 [n, 4] in pixels of the terms [n, 4] of cells [n, 2] (column, row)."""
    sides = np.exp(np.minimum(terms[:, 2:], LARGEST_LOG_SIDE)) * strides
    return about((cells + terms[:, :2]) * strides, sides)
