"""FCOS (Tian et al. 2019): every cell gives one box by the distances to its sides, and how central it is in
it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from aqd_deploy.detection.detectors.contract import Level, LevelBoxes, MapDetector, Places
from aqd_deploy.detection.maps import Candidates, OutputMap, around, by_place, cells_of, sigmoid


class Fcos(MapDetector):
    """`cls` [classes], `box` (l, t, r, b in strides) and `ctr` (centre-ness, a logit)."""

    name = "fcos"
    kinds = ("cls", "box", "ctr")
    nms_iou = 0.6

    def channels(self) -> Mapping[str, int]:
        return {"cls": self.classes, "box": 4, "ctr": 1}

    def least_probability(self, score: float) -> float:
        """A score is √(probability·centre-ness), and the centre-ness is at most 1."""
        return score**2

    def decode(
        self, maps: Mapping[str, OutputMap], stride: int, score_threshold: float, most: int
    ) -> LevelBoxes:
        found = Candidates.above(maps["cls"], score_threshold)
        centreness = sigmoid(maps["ctr"].take(np.zeros_like(found.channel), found.y, found.x))
        found = found.scored(np.sqrt(found.scores * centreness)).best(most)
        sides = [maps["box"].take(np.full_like(found.channel, k), found.y, found.x) for k in range(4)]
        distances = np.stack(sides, axis=1) * stride
        boxes = around(found.centres(stride, self.cell_offset), distances)
        return boxes, found.scores, found.channel.astype(np.int64)

    def everywhere(self, outputs: Mapping[str, np.ndarray], level: Level) -> Places:
        """See `Detector`."""
        maps = {kind: outputs[level.outputs[kind]] for kind in self.kinds}
        scores = np.sqrt(sigmoid(by_place(maps["cls"])) * sigmoid(by_place(maps["ctr"])))
        centres = (cells_of(maps["box"]) + self.cell_offset) * level.stride
        return Places(scores, around(centres, by_place(maps["box"]) * level.stride))
