"""YOLO networks without suppression (YOLOv10, v26), or that have done it: a row for each box found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from aqd_deploy.detection.detectors.boxes import Boxes
from aqd_deploy.detection.detectors.by_shape import Shapes, Size, named_rows
from aqd_deploy.detection.detectors.contract import Detector, Level, LevelBoxes, Places
from aqd_deploy.detection.detectors.rows import rows_of, stacked_rows

_WIDTH = 6


class YoloEnd2End(Detector):
    """`rows` [1, N, 6]: x1, y1, x2, y2 in pixels of the input, the score and the number of the class."""

    name = "yolo_end2end"
    kinds = ("rows",)
    nms_iou = 1.0

    @classmethod
    def found(cls, entry: Mapping[str, Any], shapes: Shapes, size: Size) -> dict[str, Any] | None:
        """See `Detector`."""
        named = named_rows([_WIDTH], shapes, entry.get("outputs"))
        return None if named is None else {**entry, "outputs": named}

    def least_probability(self, score: float) -> float:
        return score

    def read(
        self, outputs: Mapping[str, np.ndarray], described: Mapping[str, Any], level: Level, least: float,
        most: int,
    ) -> LevelBoxes:  # fmt: skip
        """See `Detector`. A row without a box has the score 0."""
        parts, named = _parts(rows_of(outputs, described, level.outputs["rows"], _WIDTH), level)
        return Boxes(self.classes).read(parts, {}, named, least, most)

    def everywhere(self, outputs: Mapping[str, np.ndarray], level: Level) -> Places:
        """See `Detector`."""
        rows = stacked_rows(outputs[level.outputs["rows"]], _WIDTH)
        return Boxes(self.classes).everywhere(*_parts(rows, level))


def _parts(rows: np.ndarray, level: Level) -> tuple[dict[str, np.ndarray], Level]:
    """The rows as outputs of decoded boxes, and their names."""
    parts = {"boxes": rows[:, :4], "scores": rows[:, 4], "labels": rows[:, 5]}
    return parts, Level(level.stride, {kind: kind for kind in parts})
