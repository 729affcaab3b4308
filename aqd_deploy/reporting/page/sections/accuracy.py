"""Accuracy of the stages of a network: the ladder, all metrics, AP by class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aqd_deploy.reporting.document import ACCURACY, VARIANTS, stage_labels
from aqd_deploy.reporting.page.blocks import Block, Chart, More, Section, Table, Text
from aqd_deploy.reporting.page.charts.ladder import ladder_chart
from aqd_deploy.reporting.page.figures import change_in_points, points

_NOTE = (
    "In points, over the images of this report: AP and AR as COCO defines them, VOC with all points at an "
    "IoU of one half. A dash stands where there is no such object."
)


def accuracy(model: Mapping[str, Any], name: str) -> Section | None:
    """None where nothing was evaluated. `name` tells the chart from others of the page."""
    stages = {stage: entry for stage in VARIANTS if (entry := model["accuracy"].get(stage))}
    if not stages:
        return None
    labels = stage_labels(model)
    blocks: list[Block] = []
    ladder = model["summary"]["ladder"]
    drawing = ladder_chart(f"{name}-ladder", ladder)
    if drawing is not None:
        rows = [
            (labels[step["stage"]], points(step["AP"]), change_in_points(step["change"])) for step in ladder
        ]
        caption = f"AP from stage to stage, {model['name']}"
        blocks.append(Chart(drawing, Table(caption, ("stage", "AP", "change"), rows)))
    known = [metric for metric in ACCURACY if any(metric in entry for entry in stages.values())]
    metrics = [
        (labels[stage], *(points(entry.get(metric)) for metric in known)) for stage, entry in stages.items()
    ]
    blocks += [Table(f"All metrics, {model['name']}", ("stage", *known), metrics), Text(_NOTE)]
    classes = _by_class(stages, model["name"])
    return Section("Accuracy", [*blocks, classes] if classes else blocks)


def _by_class(stages: Mapping[str, Mapping[str, Any]], name: str) -> More | None:
    tables = {stage: entry["per_class"] for stage, entry in stages.items() if entry.get("per_class")}
    classes = list(dict.fromkeys(each for table in tables.values() for each in table))
    if not classes:
        return None
    rows = [(each, *(points(table.get(each)) for table in tables.values())) for each in classes]
    headers = ("class", *(VARIANTS[stage] for stage in tables))
    return More("AP by class", [Table(f"AP by class, {name}", headers, rows, sortable=True)])
