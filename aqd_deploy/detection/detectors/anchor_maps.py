"""What detectors share whose cells have anchors, each with a box, an objectness and classes in one map."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np

from aqd_deploy.detection.detectors.by_shape import Shape, Shapes, Size, named_levels
from aqd_deploy.detection.detectors.contract import Detector, Level, LevelBoxes, Places
from aqd_deploy.detection.detectors.objectness import scored_places
from aqd_deploy.detection.detectors.retinanet import level_sides
from aqd_deploy.detection.maps import OutputMap, about, anchors_of, by_place, cells_of, sigmoid
from aqd_deploy.schema import Check, list_of, number, table, whole

_SIDES = list_of(list_of(list_of(number(above=0, high=1e6), 2, 2), 1), 1)
_BOX = 4


@dataclass(frozen=True)
class AnchorMaps(Detector):
    """`map` [anchors·(5 + classes), H, W], or [1, anchors, H, W, 5 + classes]: of each anchor x, y, w, h, the
    objectness and the classes, the last ones as logits. A score is σ(objectness)·σ(class).

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

    @classmethod
    def found(cls, entry: Mapping[str, Any], shapes: Shapes, size: Size) -> dict[str, Any] | None:
        """See `Detector`."""
        detector = cls.of(entry)
        named = named_levels(
            detector.channels(), entry["strides"], shapes, size, entry.get("outputs"), detector.map_shape
        )
        return None if named is None else {**entry, "outputs": named}

    @property
    def anchors_per_cell(self) -> int:
        return len(next(iter(self.sides.values())))

    def channels(self) -> Mapping[str, int]:
        return {"map": self.anchors_per_cell * (5 + self.classes)}

    def map_shape(self, shape: Shape) -> Shape:
        if len(shape) != 5:
            return shape
        batch, anchors, height, width, each = shape
        known = isinstance(anchors, int) and isinstance(each, int)
        return [batch, anchors * each if known else None, height, width]

    def least_probability(self, score: float) -> float:
        return score

    def read(
        self, outputs: Mapping[str, np.ndarray], described: Mapping[str, Any], level: Level, least: float,
        most: int,
    ) -> LevelBoxes:  # fmt: skip
        """See `Detector`."""
        name = level.outputs["map"]
        found = OutputMap.of(_maps_in_front(outputs, name), described, name, self.channels()["map"])
        channels = np.arange(len(found.values)).reshape(self.anchors_per_cell, 5 + self.classes)
        scored = scored_places(
            found.part(channels[:, _BOX]), found.part(channels[:, _BOX + 1 :].ravel()), least, most
        )
        x, y, anchor = scored.x, scored.y, scored.anchor
        terms = np.stack([found.take(channels[anchor, k], y, x) for k in range(_BOX)], axis=1)
        middles, sides = self.geometry(terms, np.stack([x, y], axis=1), level.stride)
        boxes = about(middles, sides * self.sides[level.stride][anchor])
        return boxes, scored.scores, scored.label

    def everywhere(self, outputs: Mapping[str, np.ndarray], level: Level) -> Places:
        """See `Detector`."""
        name = level.outputs["map"]
        whole, anchors = _maps_in_front(outputs, name)[name], self.sides[level.stride]
        terms = by_place(whole, len(anchors))
        middles, longer = self.geometry(terms[:, :_BOX], cells_of(whole, len(anchors)), level.stride)
        scores = sigmoid(terms[:, _BOX : _BOX + 1]) * sigmoid(terms[:, _BOX + 1 :])
        return Places(scores, about(middles, longer * anchors_of(whole, anchors)))

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
