"""Boxes of the float and the integer network side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from aqd_deploy.reporting.page.blocks import Picture, Pictures, Section, Text
from aqd_deploy.reporting.page.pictures import KIND, PictureBudget

_COLUMNS = {"float": "float network", "integer": "integer network"}


def pictures(model: Mapping[str, Any], budget: PictureBudget) -> Section | None:
    """None where there are none."""
    entries = model.get("pictures") or []
    if not entries:
        return None
    shown = list(_rows(entries, budget))
    if len(shown) < len(entries):
        return Section("Pictures", [*shown, Text("More pictures are in the folder of the run.")])
    return Section("Pictures", shown)


def _rows(entries: list[Mapping[str, Any]], budget: PictureBudget) -> Iterator[Pictures]:
    for entry in entries:
        files = {column: entry[column] for column in _COLUMNS if entry.get(column)}
        found = budget.take(list(files.values()))
        if found is None:
            return
        row = [
            Picture(file, _COLUMNS[column], f"{entry['image']} with the boxes of the {_COLUMNS[column]}",
                    KIND if data else "", data)
            for (column, file), data in zip(files.items(), found, strict=True)
        ]  # fmt: skip
        yield Pictures(str(entry["image"]), row)
