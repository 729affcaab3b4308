"""RetinaNet (Lin et al. 2017): every cell has anchors, each of which gives one box near it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from aqd_deploy.detection.detectors.contract import LevelBoxes, MapDetector
from aqd_deploy.detection.maps import Candidates, OutputMap
from aqd_deploy.schema import Check, list_of, number, table

# Larger box deltas give a side of 62.5 anchors; beyond it exp() would only overflow.
LARGEST_LOG_SIDE = float(np.log(1000 / 16))
_POSITIVE = number(above=0, high=1e6)


@dataclass(frozen=True)
class RetinaNet(MapDetector):
    """`cls` [anchors·classes] and `box` [anchors·4] (dx, dy in anchor sizes; dw, dh as logarithms).

    `widths` and `heights` are the anchors' sides in units of the stride, ratio-major.
    """

    name = "retinanet"
    kinds = ("cls", "box")
    keys: ClassVar[Mapping[str, Check]] = {
        **MapDetector.keys,
        "anchors": table(
            {"base": _POSITIVE, "scales": list_of(_POSITIVE, 1), "ratios": list_of(_POSITIVE, 1)}
        ),
    }
    nms_iou = 0.5

    widths: tuple[float, ...]
    heights: tuple[float, ...]

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Self:
        anchors = entry["anchors"]
        sides = anchor_sides(anchors["base"], anchors["scales"], anchors["ratios"])
        widths, heights = zip(*sides, strict=True)
        return cls(len(entry["classes"]), widths, heights)

    @property
    def anchors_per_cell(self) -> int:
        return len(self.widths)

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
        sides = np.stack([np.array(self.widths)[anchor], np.array(self.heights)[anchor]], axis=1) * stride
        middle = found.centres(stride) + deltas[:, :2] * sides
        half = sides * np.exp(np.minimum(deltas[:, 2:], LARGEST_LOG_SIDE)) / 2
        return np.concatenate([middle - half, middle + half], axis=1), found.scores, label.astype(np.int64)


def anchor_sides(base: float, scales: Sequence[float], ratios: Sequence[float]) -> list[tuple[float, float]]:
    """Width and height of anchors of area (base·scale)² and h/w = ratio, in units of the stride; those of a
    ratio lie together.
    """
    return [(base * s / math.sqrt(r), base * s * math.sqrt(r)) for r in ratios for s in scales]
