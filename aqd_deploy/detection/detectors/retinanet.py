"""RetinaNet (Lin et al. 2017): every cell has anchors, each of which gives one box near it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np

from aqd_deploy.detection.detectors.contract import Level, LevelBoxes, MapDetector, Places
from aqd_deploy.detection.maps import (
    CELL_OFFSET,
    Candidates,
    OutputMap,
    about,
    anchors_of,
    by_place,
    cells_of,
    sigmoid,
)
from aqd_deploy.errors import ModelFileError
from aqd_deploy.schema import Check, list_of, number, table

# Larger box deltas give a side of 62.5 anchors; beyond it exp() would only overflow.
LARGEST_LOG_SIDE = float(np.log(1000 / 16))
_POSITIVE = number(above=0, high=1e6)


_FORMULA = table({"base": _POSITIVE, "scales": list_of(_POSITIVE, 1), "ratios": list_of(_POSITIVE, 1)})
_LISTED = table({"sides": list_of(list_of(list_of(_POSITIVE, 2, 2), 1), 1)})


def anchors_check(value: Any, place: str) -> None:
    """Base, scales and ratios, or the sides themselves."""
    (_LISTED if isinstance(value, Mapping) and "sides" in value else _FORMULA)(value, place)


@dataclass(frozen=True)
class RetinaNet(MapDetector):
    """`cls` [anchors·classes] and `box` [anchors·4] (dx, dy in anchor sizes; dw, dh as logarithms).

    `sides` are the anchors' by the level's stride: float64 [anchors, 2] (width, height) in pixels.
    """

    name = "retinanet"
    kinds = ("cls", "box")
    keys: ClassVar[Mapping[str, Check]] = {**MapDetector.keys, "anchors": anchors_check}
    nms_iou = 0.5

    sides: Mapping[int, np.ndarray] = field(kw_only=True)

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Self:
        sides = level_sides(entry["anchors"], entry["strides"])
        return cls(len(entry["classes"]), entry.get("cell_offset", CELL_OFFSET), sides=sides)

    @property
    def anchors_per_cell(self) -> int:
        return len(next(iter(self.sides.values())))

    def channels(self) -> Mapping[str, int]:
        return {"cls": self.anchors_per_cell * self.classes, "box": self.anchors_per_cell * 4}

    def least_probability(self, score: float) -> float:
        return score

    def decode(
        self, maps: Mapping[str, OutputMap], stride: int, score_threshold: float, most: int
    ) -> LevelBoxes:
        found = Candidates.above(maps["cls"], score_threshold).best(most)
        anchor, label = np.divmod(found.channel, self.classes)
        deltas = np.stack([maps["box"].take(anchor * 4 + k, found.y, found.x) for k in range(4)], axis=1)
        boxes = _beside(found.centres(stride, self.cell_offset), self.sides[stride][anchor], deltas)
        return boxes, found.scores, label.astype(np.int64)

    def everywhere(self, outputs: Mapping[str, np.ndarray], level: Level) -> Places:
        """See `Detector`."""
        scores, maps = outputs[level.outputs["cls"]], outputs[level.outputs["box"]]
        anchors = self.sides[level.stride]
        centres = (cells_of(maps, len(anchors)) + self.cell_offset) * level.stride
        boxes = _beside(centres, anchors_of(maps, anchors), by_place(maps, len(anchors)))
        return Places(sigmoid(by_place(scores, len(anchors))), boxes)


def _beside(centres: np.ndarray, sides: np.ndarray, deltas: np.ndarray) -> np.ndarray:
    """Boxes [n, 4] of anchors [n, 2] by their deltas [n, 4]."""
    longer = np.exp(np.minimum(deltas[:, 2:], LARGEST_LOG_SIDE))
    return about(centres + deltas[:, :2] * sides, sides * longer)


def level_sides(anchors: Mapping[str, Any], strides: Sequence[int]) -> dict[int, np.ndarray]:
    """The sides of a manifest's `anchors` by stride, float64 [anchors, 2] (width, height) in pixels.

    Raises ModelFileError where listed ones are not as many for every stride, of which none is twice.
    """
    if "sides" not in anchors:
        relative = anchor_sides(anchors["base"], anchors["scales"], anchors["ratios"])
        return {stride: np.array(relative) * stride for stride in strides}
    listed = anchors["sides"]
    if len({len(level) for level in listed}) != 1 or not len(set(strides)) == len(strides) == len(listed):
        raise ModelFileError(
            "the manifest's anchors.sides are not as many for each stride",
            received=f"{[len(level) for level in listed]} for strides {list(strides)}",
            valid="a list a level, of one length",
        )
    return {stride: np.array(level, np.float64) for stride, level in zip(strides, listed, strict=True)}


def anchor_sides(base: float, scales: Sequence[float], ratios: Sequence[float]) -> list[tuple[float, float]]:
    """Width and height of anchors of area (base·scale)² and h/w = ratio, in units of the stride; those of a
    ratio lie together.
    """
    return [(base * s / math.sqrt(r), base * s * math.sqrt(r)) for r in ratios for s in scales]
