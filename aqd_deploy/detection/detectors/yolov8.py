"""YOLOv8 and its kind (YOLOv6, v9, v10, v11): the distances to a box's sides as distributions, no anchors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np

from aqd_deploy.detection.detectors.cell_maps import CellMaps
from aqd_deploy.detection.detectors.contract import Level, LevelBoxes
from aqd_deploy.detection.maps import CELL_OFFSET, Candidates, around, sigmoid
from aqd_deploy.schema import Check, whole

_BINS = 16


@dataclass(frozen=True)
class YoloV8(CellMaps):
    """`box` [4·bins] (l, t, r, b) and `cls` [classes] (logits), or `map`, which has both in this order.

    A distance is Σ k·softmax(z)_k strides over its `bins` logits z (DFL, Li et al. 2020); where there is one
    bin, it is the number itself.
    """

    name = "yolov8"
    kinds = ("box", "cls", "map")
    may_lack = ("box", "cls", "map")
    nms_iou = 0.7
    optional_keys: ClassVar[Mapping[str, Check]] = {"bins": whole(1, 256)}

    bins: int = field(default=_BINS, kw_only=True)

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Self:
        return replace(super().of(entry), bins=entry.get("bins", _BINS))

    def parts(self) -> Mapping[str, int]:
        return {"box": 4 * self.bins, "cls": self.classes}

    def read(
        self, outputs: Mapping[str, np.ndarray], described: Mapping[str, Any], level: Level, least: float,
        most: int,
    ) -> LevelBoxes:  # fmt: skip
        """See `Detector`."""
        maps = self.maps(outputs, described, level)
        found = Candidates.above(maps["cls"], least).best(most)
        terms = maps["box"].take(np.arange(4 * self.bins)[:, None], found.y, found.x).T
        boxes = self.boxes(terms, np.stack([found.x, found.y], axis=1), level.stride)
        return boxes, found.scores, found.channel.astype(np.int64)

    def scores(self, terms: Mapping[str, np.ndarray]) -> np.ndarray:
        return sigmoid(terms["cls"])

    def boxes(self, terms: np.ndarray, cells: np.ndarray, stride: int) -> np.ndarray:
        logits = terms.reshape(-1, 4, self.bins)
        distances = logits[:, :, 0] if self.bins == 1 else _expected(logits)
        return around((cells + CELL_OFFSET) * stride, distances * stride)


def _expected(logits: np.ndarray) -> np.ndarray:
    """Σ k·softmax(z)_k along the axis 2 of [n, 4, bins]."""
    weights = np.exp(logits - logits.max(axis=2, keepdims=True))
    return (weights * np.arange(logits.shape[2])).sum(axis=2) / weights.sum(axis=2)
