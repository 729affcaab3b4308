"""Views of a report: its pages in HTML and Markdown, and the terminal's table. They show what the
document has, and compute nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from aqd_deploy.files import write_text
from aqd_deploy.reporting.document import REPORT, VARIANTS, check_report
from aqd_deploy.reporting.page.html import html_page
from aqd_deploy.reporting.page.markdown import markdown_page
from aqd_deploy.reporting.page.report_page import report_page
from aqd_deploy.tables import table_blocks

HTML, MARKDOWN = "report.html", "report.md"
VIEWS = (HTML, MARKDOWN)
REPORTS = (REPORT, MARKDOWN, HTML)
_HEADERS = ("model", "form", "AP", "AP50", "heads", "MB", "ms", "best ms")


def rows(document: dict[str, Any]) -> list[list[object]]:
    """One row a model and variant: name, variant, AP and AP50 in points, agreement of head outputs,
    megabytes, ms.
    """
    found: list[list[object]] = []
    for model in document["models"]:
        for variant, label in VARIANTS.items():
            size = _megabytes(model, variant)
            row = [*_accuracy(model, variant), _agreement(model, variant), size, *_latency(model, variant)]
            if any(value is not None for value in row):
                found.append([model["name"], label, *row])
    return found


def terminal_table(document: dict[str, Any]) -> str:
    """The table for a terminal, at most 80 columns: each model's name above its rows."""
    all_rows = rows(document)
    shown, blocks = table_blocks(_HEADERS[1:], [row[1:] for row in all_rows])
    last = None
    for row, block in zip(all_rows, blocks, strict=True):
        if row[0] != last:
            shown.append(str(row[0]))
        shown += block
        last = row[0]
    return "\n".join(shown)


LEGEND = (
    "AP and AP50 in points over these images. heads: correlation of all head outputs with those of the "
    "fake-quantized network; for the program, the number of integers that differ from the integer reference. "
    "ms and best ms: median and minimum of interleaved runs in one process, batch 1; float and INT8 by "
    "onnxruntime."
)


def write_report(folder: Path, document: dict[str, Any], pictures: Path | None = None) -> list[Path]:
    """Write REPORTS, the document and its views, into an existing folder; the paths. Names of pictures are
    relative to `pictures`, without it to `folder`.
    """
    text = json.dumps(check_report(document), indent=2, allow_nan=False) + "\n"
    write_text(folder / REPORT, text)
    page = report_page(document, pictures or folder)
    write_text(folder / HTML, html_page(page))
    write_text(folder / MARKDOWN, markdown_page(page))
    return [folder / name for name in REPORTS]


def _accuracy(model: dict[str, Any], variant: str) -> list[str | None]:
    entry = model["accuracy"].get(variant) or {}
    return [None if entry.get(key) is None else f"{100 * entry[key]:.1f}" for key in ("AP", "AP50")]


def _agreement(model: dict[str, Any], variant: str) -> str | None:
    entry = (model.get("agreement") or {}).get(variant)
    if entry is None:
        return None
    if "differing" in entry:
        return f"{entry['differing']} differ"
    return None if entry.get("correlation") is None else f"{entry['correlation']:.6f}"


def _megabytes(model: dict[str, Any], variant: str) -> float | None:
    entry = model["files"].get(variant)
    return None if entry is None else round(entry["bytes"] / 1e6, 2)


def _latency(model: dict[str, Any], variant: str) -> list[float | None]:
    contender = {
        "program": "aqd-deploy",
        "float": "onnxruntime float",
        "onnxruntime_int8": "onnxruntime int8",
    }
    measured: dict[str, Any] = next(iter((model.get("latency") or {}).get("measured", [])), {})
    entry = measured.get("contenders", {}).get(contender.get(variant, ""), {})
    return [entry.get("median_ms"), entry.get("min_ms")]
