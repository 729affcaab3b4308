"""YOLO networks that decode their maps themselves: a row for each cell, before suppression."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from aqd_deploy.detection.detectors.by_shape import Shapes, Size, named_rows
from aqd_deploy.detection.detectors.contract import Detector, Level, LevelBoxes, Places
from aqd_deploy.detection.detectors.rows import rows_of, stacked_rows
from aqd_deploy.detection.detectors.yolox import middle_boxes
from aqd_deploy.detection.maps import about
from aqd_deploy.errors import ModelFileError, ShapeError
from aqd_deploy.schema import Check, list_of, one_of, whole

_CELLS = "cells"
_FORMS = ("xywh", "xyxy", _CELLS)
_SIDES = list_of(list_of(whole(1, 1 << 20), 3, 3), 1)


@dataclass(frozen=True)
class YoloDecoded(Detector):
    """`rows` [1, N, K] or [1, K, N] with K = 4 + classes, or 5 + classes where `objectness` stands behind the
    box. Classes and objectness are probabilities; a score is their product.

    `boxes` says what the first four are: `xywh` (middle and sides) or `xyxy` (corners) in pixels of the
    input, or `cells`: as YOLOX's maps have them. Of the last kind, `cells` are [stride, rows, columns] of
    each level, in the order of the rows.
    """

    name = "yolo_decoded"
    kinds = ("rows",)
    nms_iou = 0.45
    keys: ClassVar[Mapping[str, Check]] = {"objectness": one_of(True, False), "boxes": one_of(*_FORMS)}
    optional_keys: ClassVar[Mapping[str, Check]] = {
        "cells": _SIDES, "cell_strides": list_of(whole(1, 1 << 20), 1),
    }  # fmt: skip

    objectness: bool
    boxes: str
    cells: tuple[tuple[int, int, int], ...]

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Self:
        cells = tuple(tuple(each) for each in entry.get("cells", ()))
        if (entry["boxes"] == _CELLS) != bool(cells):
            raise ModelFileError(
                "the manifest's detector has cells and other boxes, or boxes in cells and does not tell them",
                received=f"boxes {entry['boxes']}, cells {cells}",
                valid='boxes = "cells" with cells = [[stride, rows, columns], ...]',
            )
        return cls(len(entry["classes"]), entry["objectness"], entry["boxes"], cells)

    @classmethod
    def found(cls, entry: Mapping[str, Any], shapes: Shapes, size: Size) -> dict[str, Any] | None:
        """See `Detector`. `cell_strides` become the `cells` of this image."""
        cells = [[stride, *(-(-side // stride) for side in size)] for stride in entry.get("cell_strides", ())]
        named = named_rows([4 + entry["objectness"] + len(entry["classes"])], shapes, entry.get("outputs"))
        if named is None:
            return None
        return {**entry, **({"cells": cells} if cells else {}), "outputs": named}

    def least_probability(self, score: float) -> float:
        return score

    def read(
        self, outputs: Mapping[str, np.ndarray], described: Mapping[str, Any], level: Level, least: float,
        most: int,
    ) -> LevelBoxes:  # fmt: skip
        """See `Detector`."""
        rows = rows_of(outputs, described, level.outputs["rows"], self._width)
        scores = self._scores(rows)
        place, label = np.nonzero(scores > least)
        best = np.argsort(-scores[place, label], kind="stable")[:most]
        place, label = place[best], label[best]
        return self._corners(rows[:, :4], place), scores[place, label], label.astype(np.int64)

    def everywhere(self, outputs: Mapping[str, np.ndarray], level: Level) -> Places:
        """See `Detector`."""
        array = outputs[level.outputs["rows"]]
        rows = stacked_rows(array, self._width)
        boxes = self._corners(rows[:, :4], np.arange(len(rows)), len(array))
        return Places(self._scores(rows), boxes)

    @property
    def _width(self) -> int:
        return 4 + self.objectness + self.classes

    def _scores(self, rows: np.ndarray) -> np.ndarray:
        return rows[:, 5:] * rows[:, 4:5] if self.objectness else rows[:, 4:]

    def _corners(self, boxes: np.ndarray, place: np.ndarray, images: int = 1) -> np.ndarray:
        """Corners in pixels of the boxes at these rows of all images."""
        found = boxes[place]
        if self.boxes == "xyxy":
            return found
        if self.boxes == "xywh":
            return about(found[:, :2], found[:, 2:])
        grids = [
            np.stack(
                [*np.meshgrid(np.arange(columns), np.arange(rows)), np.full((rows, columns), stride)], -1
            )
            for stride, rows, columns in self.cells
        ]
        cells = np.tile(np.concatenate([grid.reshape(-1, 3) for grid in grids]), (images, 1))
        if len(cells) != len(boxes):
            raise ShapeError(
                "the output has another number of rows than its cells are", received=f"{len(boxes)} rows",
                valid=f"{len(cells)}, of {list(map(list, self.cells))}",
            )  # fmt: skip
        return middle_boxes(found, cells[place, :2], cells[place, 2:])
