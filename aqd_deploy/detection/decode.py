"""From a detector's output maps to the boxes of an image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from aqd_deploy.detection.images import Placement
from aqd_deploy.detection.nms import class_wise_nms
from aqd_deploy.detection.settings import DetectorSettings


@dataclass(frozen=True)
class Detections:
    """Boxes float32 [n, 4] (x1, y1, x2, y2) in pixels of the original image, scores float32 [n] in 0..1,
    labels int64 [n] (index into the manifest's classes); by falling score."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)

    def at_least(self, score: float) -> Detections:
        """Those of this score and above."""
        kept = self.scores >= score
        return Detections(self.boxes[kept], self.scores[kept], self.labels[kept])


@dataclass(frozen=True)
class Postprocess:
    """What a manifest says of outputs, to be used for every image: `settings`, and `described` by output."""

    settings: DetectorSettings
    described: Mapping[str, Any]

    @classmethod
    def from_manifest(cls, manifest: dict[str, Any]) -> Postprocess:
        """Raises ModelFileError for a manifest that does not fit."""
        return cls(DetectorSettings.from_manifest(manifest), manifest.get("outputs", {}))

    def __call__(self, outputs: Mapping[str, np.ndarray], placement: Placement) -> Detections:
        """The detections of one image.

        outputs: by name; output maps [1, C, H, W] are integers with a `scale` (one number or one a channel)
        in the manifest's `outputs`, or floating point. Candidates have a class probability above
        `score_threshold`; of each level the `pre_nms` best scores go on. Boxes are clipped to the image,
        empty ones dropped, then class-wise NMS.

        Raises ShapeError for outputs that are missing or of a shape that does not fit the manifest,
        ScaleError for a scale that is missing or not positive, ModelFileError for what is not numbers.
        """
        settings = self.settings
        least, most = settings.score_threshold, settings.pre_nms
        parts = [
            settings.detector.read(outputs, self.described, level, least, most) for level in settings.levels
        ]
        boxes, scores, labels = (np.concatenate(values) for values in zip(*parts, strict=True))
        boxes = placement.to_image(boxes)
        solid = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]) & np.isfinite(scores)
        boxes, scores, labels = boxes[solid], scores[solid], labels[solid]
        kept = class_wise_nms(boxes, scores, labels, settings.nms_iou, settings.max_detections)
        return Detections(boxes[kept].astype(np.float32), scores[kept].astype(np.float32), labels[kept])


def decode(outputs: Mapping[str, np.ndarray], manifest: dict[str, Any], placement: Placement) -> Detections:
    """The detections of one image, by `Postprocess` of this manifest."""
    return Postprocess.from_manifest(manifest)(outputs, placement)
