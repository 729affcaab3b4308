"""What a detector is to whoever reads its outputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from aqd_deploy.detection.maps import OutputMap
from aqd_deploy.schema import Check

LevelBoxes = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Boxes float64 [n, 4] (x1, y1, x2, y2) in pixels of the network's input, scores float64 [n] in 0..1, labels
int64 [n].
"""


@dataclass(frozen=True)
class Detector(ABC):
    """A kind of detector, for a number of classes.

    `name` is its `kind` in a manifest; `kinds` are those of its output maps, of which every pyramid level has
    one each, in the graph's order; `keys` are what its entry in a manifest has besides what all have;
    `nms_iou` is the threshold of class-wise NMS that its networks get unless they say another.
    """

    name: ClassVar[str]
    kinds: ClassVar[tuple[str, ...]]
    keys: ClassVar[Mapping[str, Check]] = {}
    nms_iou: ClassVar[float] = 0.5

    classes: int

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Self:
        """The detector that a manifest's entry, which has been checked, describes."""
        return cls(len(entry["classes"]))

    @property
    def anchors_per_cell(self) -> int:
        """How many boxes each cell can give."""
        return 1

    @abstractmethod
    def channels(self) -> Mapping[str, int]:
        """The channels of the maps by kind."""

    @abstractmethod
    def least_probability(self, score: float) -> float:
        """The least class probability that can become `score`."""

    @abstractmethod
    def decode(
        self, maps: Mapping[str, OutputMap], stride: int, score_threshold: float, most: int
    ) -> LevelBoxes:
        """What the maps of one level (by kind, all [C, H, W] of one height and width) say.

        Candidates are the entries whose class probability is above `score_threshold`; the `most` best scores
        go on.
        """
