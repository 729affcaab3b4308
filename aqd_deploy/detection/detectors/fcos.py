"""FCOS (Tian et al. 2019): every cell gives one box by the distances to its sides, and how central it is in
it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from aqd_deploy.detection.detectors.contract import LevelBoxes, MapDetector
from aqd_deploy.detection.maps import Candidates, OutputMap, sigmoid


class Fcos(MapDetector):
    """`cls` [classes], `box` (l, t, r, b in strides) and `ctr` (centre-ness, a logit)."""

    name = "fcos"
    kinds = ("cls", "box", "ctr")
    logits = ("cls", "ctr")
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
        centres = found.centres(stride)
        boxes = np.concatenate([centres - distances[:, :2], centres + distances[:, 2:]], axis=1)
        return boxes, found.scores, found.channel.astype(np.int64)
