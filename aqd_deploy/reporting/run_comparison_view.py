"""Two runs side by side, for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aqd_deploy.reporting.page.blocks import Cell, Figure
from aqd_deploy.reporting.page.comparison_page import FORMATS
from aqd_deploy.reporting.page.figures import change_in_percent
from aqd_deploy.tables import lines_of, table


def comparison_text(document: Mapping[str, Any]) -> str:
    """What changed, what cannot be compared and why, and what is not the same; at most 80 columns."""
    first, second = document["runs"]
    parts = [
        lines_of(
            [f"from {first['folder']} ({first['created']})", f"to {second['folder']} ({second['created']})"]
        )
    ]
    parts += [_model(model) for model in document["models"]]
    if document["not_compared"]:
        parts.append(
            lines_of(f"not compared: {each['what']}; {each['why']}" for each in document["not_compared"])
        )
    if document["differs"]:
        told = (
            f"not the same: {each['what']}: {each['first']}; {each['second']}" for each in document["differs"]
        )
        parts.append(lines_of(told))
    return "\n\n".join(parts)


def _model(model: Mapping[str, Any]) -> str:
    changed = [row for row in model["rows"] if row["verdict"] != "same"]
    if not changed:
        return lines_of([f"{model['name']}: nothing changed of what both runs measured"])
    rows = [_row(row) for row in changed]
    return f"{model['name']}\n" + table(("what", "of", "first", "second", "%", "verdict"), rows)


def _row(row: Mapping[str, Any]) -> tuple[str, ...]:
    write, _, unit = FORMATS[row["unit"]]
    first, second = (_plain(write(row[key])) for key in ("first", "second"))
    percent = _plain(change_in_percent(row["share"])).removesuffix(" %")
    return f"{row['what']} {unit}".rstrip(), row["of"], first, second, percent, row["verdict"]


def _plain(cell: Cell) -> str:
    return cell.text if isinstance(cell, Figure) else cell or "-"
