"""The accuracy of each stage, for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aqd_deploy.reporting.document import VARIANTS
from aqd_deploy.tables import lines_of, table

_NUMBERS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100", "VOC")
_LEGEND = (
    "AP, AP50, AP75; of small, medium and large objects; AR with 100 boxes an image: as COCO defines them. "
    "VOC: AP at IoU 0.5, all points. In points of 100."
)


def accuracy_view(document: Mapping[str, Any]) -> str:
    """The table of a report of `eval`, of at most 80 columns, and its gates."""
    parts = []
    for model in document["models"]:
        rows = [
            (VARIANTS[stage], *(_points(values[name]) for name in _NUMBERS))
            for stage, values in model["accuracy"].items()
        ]
        images = document["images"]
        head = f"{model['name']}: {images['count']} images of {images['folder']} ({images['format']})"
        parts += [lines_of([head]), table(("stage", *_NUMBERS), rows), lines_of([_LEGEND])]
    if document["gates"]:
        parts.append(lines_of(map(_gate, document["gates"])))
    return "\n\n".join(parts)


def _points(value: float | None) -> str | None:
    return None if value is None else f"{100 * value:.2f}"


def _gate(entry: Mapping[str, Any]) -> str:
    value = "not there" if entry["value"] is None else f"{entry['value']:.4f}"
    return f"gate {entry['asked']}: {entry['stage']} {value}, {'met' if entry['met'] else 'not met'}"
