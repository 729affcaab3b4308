"""YOLOv8 and its kind (YOLOv6, v9, v10, v11): the distances to a box's sides as distributions, no anchors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np

from aqd_deploy.detection.detectors.cell_maps import CellMaps
from aqd_deploy.detection.detectors.contract import Level, LevelBoxes
from aqd_deploy.detection.maps import CELL_OFFSET, Candidates
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
        channels = np.arange(4 * self.bins)[:, None]
        logits = maps["box"].take(channels, found.y, found.x).reshape(4, self.bins, -1)
        distances = logits[:, 0] if self.bins == 1 else _expected(logits)
        distances = distances.T * level.stride
        centres = found.centres(level.stride, CELL_OFFSET)
        boxes = np.concatenate([centres - distances[:, :2], centres + distances[:, 2:]], axis=1)
        return boxes, found.scores, found.channel.astype(np.int64)


def _expected(logits: np.ndarray) -> np.ndarray:
    """Σ k·softmax(z)_k along the axis 1 of [4, bins, n]."""
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    bins = np.arange(logits.shape[1])[:, None]
    return (weights * bins).sum(axis=1) / weights.sum(axis=1)
