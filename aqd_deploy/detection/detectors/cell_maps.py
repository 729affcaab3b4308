"""What detectors share whose cells give one box each, in one map or in one a part of it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np

from aqd_deploy.detection.detectors.by_shape import Shapes, Size, named_levels
from aqd_deploy.detection.detectors.contract import Detector, Level, Places
from aqd_deploy.detection.maps import OutputMap, by_place, cells_of
from aqd_deploy.errors import ModelFileError
from aqd_deploy.schema import Check, list_of, whole

JOINED = "map"


@dataclass(frozen=True)
class CellMaps(Detector):
    """A map of each of the `parts`, or one, `map`, of all of them in their order."""

    keys: ClassVar[Mapping[str, Check]] = {"strides": list_of(whole(1, 1 << 20), 1)}

    joined: bool = field(kw_only=True)

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Self:
        parts, named = sorted(set(cls.kinds) - {JOINED}), sorted(entry["outputs"])
        if named not in (parts, [JOINED]):
            raise ModelFileError(
                "the manifest's detector names other outputs than its kind has", received=", ".join(named),
                valid=f"{JOINED}, or {', '.join(parts)}",
            )  # fmt: skip
        return cls(len(entry["classes"]), joined=named == [JOINED])

    @classmethod
    def found(cls, entry: Mapping[str, Any], shapes: Shapes, size: Size) -> dict[str, Any] | None:
        """See `Detector`."""
        given = entry.get("outputs")
        layouts = ([JOINED], [kind for kind in cls.kinds if kind != JOINED]) if given is None else (given,)
        for kinds in layouts:
            detector = cls.of({**entry, "outputs": dict.fromkeys(kinds)})
            named = named_levels(detector.channels(), entry["strides"], shapes, size, given)
            if named is not None:
                return {**entry, "outputs": named}
        return None

    @abstractmethod
    def parts(self) -> Mapping[str, int]:
        """The channels of each part, in their order in a joined map."""

    def channels(self) -> Mapping[str, int]:
        return {JOINED: sum(self.parts().values())} if self.joined else self.parts()

    def least_probability(self, score: float) -> float:
        return score

    def maps(
        self, outputs: Mapping[str, np.ndarray], described: Mapping[str, Any], level: Level
    ) -> dict[str, OutputMap]:
        """The map of each part. Raises what `OutputMap.of` raises."""
        found = {
            kind: OutputMap.of(outputs, described, level.outputs[kind], channels)
            for kind, channels in self.channels().items()
        }
        return (
            {kind: found[JOINED].part(channels) for kind, channels in self._joint()} if self.joined else found
        )

    def _joint(self) -> list[tuple[str, np.ndarray]]:
        """The channels of each part in a joined map, int64."""
        counts = list(self.parts().values())
        return list(zip(self.parts(), np.split(np.arange(sum(counts)), np.cumsum(counts)[:-1]), strict=True))

    def everywhere(self, outputs: Mapping[str, np.ndarray], level: Level) -> Places:
        """See `Detector`."""
        maps = {kind: outputs[level.outputs[kind]] for kind in self.channels()}
        if self.joined:
            maps = {kind: maps[JOINED][:, channels] for kind, channels in self._joint()}
        terms = {kind: by_place(each) for kind, each in maps.items()}
        return Places(self.scores(terms), self.boxes(terms["box"], cells_of(maps["box"]), level.stride))

    @abstractmethod
    def scores(self, terms: Mapping[str, np.ndarray]) -> np.ndarray:
        """Scores [n, classes] of the parts [n, channels] at n cells."""

    @abstractmethod
    def boxes(self, terms: np.ndarray, cells: np.ndarray, stride: int) -> np.ndarray:
        """Boxes [n, 4] (x1, y1, x2, y2) in pixels of the part `box` [n, channels] at cells [n, 2] (column,
        row).
        """
