"""All networks side by side: latency against AP."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from aqd_deploy.bench.contenders import OURS
from aqd_deploy.reporting.document import VARIANTS
from aqd_deploy.reporting.page.blocks import Block, Cell, Chart, Section, Table, Text
from aqd_deploy.reporting.page.charts.scatter import Point, scatter_chart
from aqd_deploy.reporting.page.charts.svg import letters
from aqd_deploy.reporting.page.figures import megabytes, points, short

STAGE_OF = {OURS: "program", "onnxruntime float": "float", "onnxruntime int8": "onnxruntime_int8"}
"""Whose boxes an engine computes, where a stage of the report is evaluated for it."""
_NOTE = (
    "Batch of one, all engines in one process with the same number of threads, in turns. A network without "
    "AP here was timed but not evaluated, so it is not in the chart."
)


def overview(document: Mapping[str, Any]) -> Section | None:
    """None where nothing was timed."""
    rows: list[list[Cell]] = []
    found: list[Point] = []
    names = letters()
    for model in document["models"]:
        for engine, entry in _engines(model):
            stage = STAGE_OF.get(engine)
            accuracy = (model["accuracy"].get(stage) or {}) if stage else {}
            file = (model["files"].get(stage) or {}) if stage else {}
            letter, ap = next(names), accuracy.get("AP")
            if ap is not None and entry.get("median_ms") is not None:
                found.append(Point(letter, model["name"], engine, entry["median_ms"], ap))
            rows.append([
                letter, model["name"], engine, VARIANTS.get(stage or ""), short(entry.get("median_ms")),
                short(entry.get("min_ms")), points(ap), points(accuracy.get("AP50")),
                megabytes(file.get("bytes")),
            ])  # fmt: skip
    if not rows:
        return None
    headers = ("point", "network", "engine", "stage", "median ms", "fastest ms", "AP", "AP50", "MB")
    table = Table("Latency and accuracy", headers, rows)
    drawing = scatter_chart("scatter", found)
    shown: Block = table if drawing is None else Chart(drawing, table)
    return Section("Latency against accuracy", [shown, Text(_NOTE)])


def _engines(model: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for measured in ((model.get("latency") or {}).get("measured") or [])[:1]:
        yield from (measured.get("contenders") or {}).items()
