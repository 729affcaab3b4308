"""Detections as COCO results JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aqd_deploy.detection.decode import Detections


def coco_results(
    image_id: int | str, detections: Detections, ids: Sequence[int] | None = None
) -> list[dict[str, Any]]:
    """COCO result records of one image: image_id, category_id, bbox [x, y, width, height], score.

    `ids` gives the category id of each label (see `category_ids`); without it the label itself is written.
    """
    return [
        {
            "image_id": image_id,
            "category_id": int(label) if ids is None else int(ids[label]),
            "bbox": [round(value, 3) for value in (x1, y1, x2 - x1, y2 - y1)],
            "score": round(score, 6),
        }
        for (x1, y1, x2, y2), score, label in zip(
            detections.boxes.tolist(), detections.scores.tolist(), detections.labels.tolist(), strict=True
        )
    ]
