"""The page of two runs side by side."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from aqd_deploy.reporting.page.blocks import Block, Cell, Items, Page, Section, Table, Text, Verdict
from aqd_deploy.reporting.page.figures import (
    Format,
    change_in_percent,
    change_in_points,
    count,
    megabytes,
    points,
    short,
    signed,
)
from aqd_deploy.reporting.run_comparison import OTHER_ENGINES

FORMATS: dict[str, tuple[Format, Format, str]] = {
    "share": (points, change_in_points, "points"),
    "ms": (short, signed(short), "ms"),
    "bytes": (megabytes, signed(megabytes), "MB"),
    "mb": (short, signed(short), "MB"),
    "uj": (short, signed(short), "µJ"),
    "count": (count, signed(count), ""),
    "number": (short, signed(short), ""),
}
"""How numbers of each unit and their changes are written, and what stands behind them."""
_MET = {"better": True, "worse": False}
_MOST = 5
"""Sentences of what got better, and of what got worse; the table has all."""


def comparison_page(document: Mapping[str, Any]) -> Page:
    """The page of `compare_runs`."""
    first, second = document["runs"]
    about = [_about("First", first), _about("Second", second)]
    sections = [_model(model) for model in document["models"]]
    blocks: list[Block] = [*_not_compared(document), *sections, *_differs(document)]
    return Page("Two runs of aqd-deploy", about, blocks)


def _about(which: str, run: Mapping[str, Any]) -> str:
    command = f": {shlex.join(run['command'])}" if run.get("command") else ""
    return f"{which}: {run['folder']}, {run['kind']} of {run['created']}{command}."


def _not_compared(document: Mapping[str, Any]) -> Iterator[Block]:
    entries = document["not_compared"]
    if entries:
        told = [f"{each['what']}: {each['why']}" for each in entries]
        yield Section("What cannot be compared", [Items(told)])


def _model(model: Mapping[str, Any]) -> Section:
    rows = model["rows"]
    blocks: list[Block] = [Text("There is nothing that both runs measured.")] if not rows else []
    for word in ("worse", "better"):
        changed = [row for row in rows if row["verdict"] == word and row["group"] != OTHER_ENGINES]
        if changed:
            told = "; ".join(_sentence(row) for row in changed[:_MOST])
            blocks.append(Verdict(_MET[word], f"{told}.", word))
    if rows and not blocks:
        blocks.append(Verdict(None, "Nothing got better or worse."))
    if rows:
        headers = ("what", "of", "first", "second", "change", "change in percent", "unit", "verdict")
        table = [_row(row) for row in rows]
        blocks.append(Table(f"All that both runs measured, {model['name']}", headers, table, sortable=True))
    return Section(model["name"], blocks)


def _sentence(row: Mapping[str, Any]) -> str:
    _, of, first, second, _, _, unit, _ = (_plain(cell) for cell in _row(row))
    return f"{row['what']} of {of} from {first} to {second} {unit}".rstrip()


def _row(row: Mapping[str, Any]) -> tuple[Cell, ...]:
    write, write_change, unit = FORMATS[row["unit"]]
    return (
        f"{row['group']}: {row['what']}", row["of"], write(row["first"]), write(row["second"]),
        write_change(row["change"]), change_in_percent(row["share"]), unit, row["verdict"],
    )  # fmt: skip


def _plain(cell: Cell) -> str:
    return cell if isinstance(cell, str) else "" if cell is None else cell.text


def _differs(document: Mapping[str, Any]) -> Iterator[Block]:
    rows = [(each["what"], _said(each["first"]), _said(each["second"])) for each in document["differs"]]
    if rows:
        yield Section(
            "What is not the same", [Table("Machine, versions, images", ("what", "first", "second"), rows)]
        )


def _said(value: Any) -> str:
    return "not there" if value is None else str(value)
