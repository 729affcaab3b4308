"""What detectors share whose cells have anchors, each with a box, an objectness and classes in one map."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np

from aqd_deploy.detection.detectors.contract import Detector, Level, LevelBoxes
from aqd_deploy.detection.detectors.retinanet import level_sides
from aqd_deploy.detection.maps import OutputMap, sigmoid
from aqd_deploy.schema import Check, list_of, number, table, whole

_SIDES = list_of(list_of(list_of(number(above=0, high=1e6), 2, 2), 1), 1)
_BOX = 4


@dataclass(frozen=True)
class AnchorMaps(Detector):
    """`map` [anchors·(5 + classes), H, W], or [1, anchors, H, W, 5 + classes]: of each anchor x, y, w, h, the
    objectness and the classes. A score is σ(objectness)·σ(class).

    `sides` are the anchors' by the level's stride: float64 [anchors, 2] (width, height) in pixels.
    """

    kinds = ("map",)
    keys: ClassVar[Mapping[str, Check]] = {
        "strides": list_of(whole(1, 1 << 20), 1), "anchors": table({"sides": _SIDES}),
    }  # fmt: skip

    sides: Mapping[int, np.ndarray] = field(kw_only=True)

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Self:
        return cls(len(entry["classes"]), sides=level_sides(entry["anchors"], entry["strides"]))

    @property
    def anchors_per_cell(self) -> int:
        return len(next(iter(self.sides.values())))

    def channels(self) -> Mapping[str, int]:
        return {"map": self.anchors_per_cell * (5 + self.classes)}

    def map_shape(self, shape: Sequence[Any]) -> Sequence[Any]:
        if len(shape) != 5:
            return shape
        batch, anchors, height, width, each = shape
        return [batch, anchors * each if {type(anchors), type(each)} == {int} else None, height, width]

    def least_probability(self, score: float) -> float:
        return score

    def read(
        self, outputs: Mapping[str, np.ndarray], described: Mapping[str, Any], level: Level, least: float,
        most: int,
    ) -> LevelBoxes:  # fmt: skip
        """See `Detector`. Where objectness alone is not above `least`, no score is, and nothing is read."""
        name = level.outputs["map"]
        found = OutputMap.of(_maps_in_front(outputs, name), described, name, self.channels()["map"])
        each = 5 + self.classes
        objectness = found.part(np.arange(self.anchors_per_cell) * each + _BOX)
        places = np.unravel_index(objectness.above(least), objectness.values.shape)
        anchor, y, x = places
        labels = np.arange(self.classes)[:, None]
        scores = sigmoid(found.take(anchor * each + _BOX + 1 + labels, y, x))
        scores *= sigmoid(objectness.take(*places))
        label, place = np.nonzero(scores > least)
        best = np.argsort(-scores[label, place], kind="stable")[:most]
        label, place = label[best], place[best]
        anchor, y, x = anchor[place], y[place], x[place]
        terms = np.stack([found.take(anchor * each + k, y, x) for k in range(_BOX)], axis=1)
        middles, sides = self.geometry(terms, np.stack([x, y], axis=1), level.stride)
        half = sides * self.sides[level.stride][anchor] / 2
        boxes = np.concatenate([middles - half, middles + half], axis=1)
        return boxes, scores[label, place], label.astype(np.int64)

    @abstractmethod
    def geometry(self, terms: np.ndarray, cells: np.ndarray, stride: int) -> tuple[np.ndarray, np.ndarray]:
        """Middles in pixels and sides in anchors, float64 [n, 2] each, of the terms [n, 4] (x, y, w, h) of
        cells [n, 2] (column, row).
        """


def _maps_in_front(outputs: Mapping[str, np.ndarray], name: str) -> Mapping[str, np.ndarray]:
    """The outputs, the one of that name with its anchors and channels in front of the rows."""
    array = outputs.get(name)
    if array is None or array.ndim != 5:
        return outputs
    batch, anchors, height, width, each = array.shape
    moved = array.transpose(0, 1, 4, 2, 3).reshape(batch, anchors * each, height, width)
    return {**outputs, name: moved}
