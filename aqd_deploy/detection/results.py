"""Detections as COCO results JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aqd_deploy.detection.decode import Detections
from aqd_deploy.errors import AqdError
from aqd_deploy.files import write_text
from aqd_deploy.schema import SchemaError, list_of, table, text, whole

_CATEGORIES = table({}, {"categories": list_of(table({"name": text, "id": whole()}))})


def category_ids(classes: Sequence[str], annotations: dict[str, Any]) -> list[int]:
    """The COCO category id of each class, matched by name in an annotations document.

    Raises AqdError for a class the annotations do not name, or whose name is in them twice.
    """
    by_name: dict[str, list[int]] = {}
    try:
        _CATEGORIES(annotations, "")
    except SchemaError as error:
        raise error.of("the annotations document", AqdError) from error
    for category in annotations.get("categories", []):
        by_name.setdefault(category["name"], []).append(category["id"])
    ids = []
    for name in classes:
        found = by_name.get(name, [])
        if len(found) != 1:
            problem = "twice" if found else "nowhere"
            raise AqdError(
                f"a class of the model is {problem} in the annotations' categories",
                received=name,
                valid=", ".join(by_name),
            )
        ids.append(found[0])
    return ids


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


def write_results(path: str | os.PathLike[str], results: list[dict[str, Any]]) -> None:
    """Writes a COCO results file: to a temporary name first, then renamed."""
    write_text(Path(path), json.dumps(results) + "\n")
