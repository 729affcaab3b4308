"""What a detector is to whoever reads its outputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from aqd_deploy.detection.maps import CELL_OFFSET, OutputMap
from aqd_deploy.errors import ShapeError
from aqd_deploy.schema import Check, list_of, number, whole


@dataclass(frozen=True)
class Level:
    """The names of a level's outputs by kind, and its stride in pixels, 1 where boxes are in pixels."""

    stride: int
    outputs: Mapping[str, str]


LevelBoxes = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Boxes float64 [n, 4] (x1, y1, x2, y2) in pixels of the network's input, scores float64 [n] in 0..1, labels
int64 [n].
"""


@dataclass(frozen=True)
class Places:
    """Every place that can give a box, in an order that the outputs' shapes alone decide: scores float64
    [n, classes] in 0..1, boxes float64 [n, 4] (x1, y1, x2, y2) in pixels of the network's input.
    """

    scores: np.ndarray
    boxes: np.ndarray


@dataclass(frozen=True)
class Detector(ABC):
    """A kind of detector, for a number of classes.

    `name` is its `kind` in a manifest; `kinds` are those of its outputs, of which every level has one each,
    in the graph's order, but for those of `may_lack` that an entry leaves out; `keys` are what its entry in a
    manifest has besides what all have, `optional_keys` what it may have; `nms_iou` is the threshold of
    class-wise NMS that its networks get unless they say another.
    """

    name: ClassVar[str]
    kinds: ClassVar[tuple[str, ...]]
    may_lack: ClassVar[tuple[str, ...]] = ()
    keys: ClassVar[Mapping[str, Check]] = {}
    optional_keys: ClassVar[Mapping[str, Check]] = {}
    nms_iou: ClassVar[float] = 0.5

    classes: int

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Self:
        """The detector that a manifest's entry, which has been checked, describes."""
        return cls(len(entry["classes"]))

    @classmethod
    def found(
        cls, entry: Mapping[str, Any], shapes: Mapping[str, Sequence[Any]], size: tuple[int, int]
    ) -> dict[str, Any] | None:
        """A manifest's entry that may lack `outputs`, with those of a network whose outputs have these shapes
        and whose image this height and width; where it has them, held to their shapes. None where the
        network is not of this kind. By default nobody knows without names.
        """
        return dict(entry) if "outputs" in entry else None

    def channels(self) -> Mapping[str, int]:
        """The channels of those outputs that are maps [1, C, H, W], by kind: by default none is."""
        return {}

    def map_shape(self, shape: Sequence[Any]) -> Sequence[Any]:
        """[1, C, H, W] of a map that the network gives in this shape: by default it is the same."""
        return shape

    @property
    def anchors_per_cell(self) -> int:
        """How many boxes each cell of a map can give."""
        return 1

    @abstractmethod
    def least_probability(self, score: float) -> float:
        """The least class probability that can become `score`."""

    @abstractmethod
    def read(
        self, outputs: Mapping[str, np.ndarray], described: Mapping[str, Any], level: Level, least: float,
        most: int,
    ) -> LevelBoxes:  # fmt: skip
        """What the network's outputs by name say at a level, with scores from class probabilities above
        `least`, at most the best `most`; `described` is what the manifest says of outputs by name.

        Raises ShapeError, ScaleError and ModelFileError for outputs that do not fit the manifest.
        """

    @abstractmethod
    def everywhere(self, outputs: Mapping[str, np.ndarray], level: Level) -> Places:
        """What outputs of floats, which fit the manifest, say at all places of a level: of each class what
        `read` would say without a threshold. The outputs are those of several images, one behind the other
        along axis 0, and so are the places.
        """


@dataclass(frozen=True)
class MapDetector(Detector):
    """A detector whose outputs are maps of a pyramid: every level has a stride, and a map of each kind.

    The centre of cell i is at (i + `cell_offset`) · stride.
    """

    keys: ClassVar[Mapping[str, Check]] = {"strides": list_of(whole(1, 1 << 20), 1)}
    optional_keys: ClassVar[Mapping[str, Check]] = {"cell_offset": number(0, 1)}

    cell_offset: float = CELL_OFFSET

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Self:
        return cls(len(entry["classes"]), entry.get("cell_offset", CELL_OFFSET))

    @abstractmethod
    def channels(self) -> Mapping[str, int]:
        """The channels of the maps by kind."""

    def read(
        self, outputs: Mapping[str, np.ndarray], described: Mapping[str, Any], level: Level, least: float,
        most: int,
    ) -> LevelBoxes:  # fmt: skip
        """See `Detector`; of maps that are `OutputMap.of`, by `decode`."""
        maps = {
            kind: OutputMap.of(outputs, described, level.outputs[kind], channels)
            for kind, channels in self.channels().items()
        }
        first, *others = maps.values()
        for other in others:
            if other.values.shape[1:] != first.values.shape[1:]:
                raise ShapeError(
                    f"the outputs {first.name} and {other.name} of one level have different sizes",
                    received=f"{first.values.shape[1:]} and {other.values.shape[1:]}",
                )
        return self.decode(maps, level.stride, least, most)

    @abstractmethod
    def decode(
        self, maps: Mapping[str, OutputMap], stride: int, score_threshold: float, most: int
    ) -> LevelBoxes:
        """What the maps of one level (by kind, all [C, H, W] of one height and width) say.

        Candidates are the entries whose class probability is above `score_threshold`; the `most` best scores
        go on.
        """
