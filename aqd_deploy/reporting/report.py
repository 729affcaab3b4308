"""Views of a report: Markdown, and the terminal's table. They show what the document has, and compute
nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from aqd_deploy.passes.proven import sentences
from aqd_deploy.reporting.document import REPORT, VARIANTS, check_report
from aqd_deploy.tables import markdown_table, table_blocks

REPORTS = (REPORT, "report.md")
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


def markdown(document: dict[str, Any]) -> str:
    """The report as Markdown."""
    machine = document["environment"]
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    images = document["images"]
    parts = [
        f"# aqd-deploy {document['kind']}",
        f"{document['created']}, {machine['cpu']}, {machine['threads']} threads, {machine['system']}; "
        f"{packages}.",
        f"{images.get('count', 0)} images from `{images.get('folder')}`.",
        markdown_table(_HEADERS, rows(document)),
        LEGEND,
    ]
    parts += [_model_section(model) for model in document["models"]]
    return "\n\n".join(parts) + "\n"


LEGEND = (
    "AP and AP50 in points over these images. heads: correlation of all head outputs with those of the "
    "fake-quantized network; for the program, the number of integers that differ from the integer reference. "
    "ms and best ms: median and minimum of interleaved runs in one process, batch 1; float and INT8 by "
    "onnxruntime."
)


def write_report(folder: Path, document: dict[str, Any]) -> tuple[Path, Path]:
    """Write report.json and report.md into an existing folder; returns both paths."""
    from aqd_deploy.files import write_text

    paths = folder / REPORTS[0], folder / REPORTS[1]
    write_text(paths[0], json.dumps(check_report(document), indent=2, allow_nan=False) + "\n")
    write_text(paths[1], markdown(document))
    return paths


def _model_section(model: dict[str, Any]) -> str:
    lowering, weights = model["lowering"], model["weights"]
    proven = "".join(f" {sentence[0].upper()}{sentence[1:]}." for sentence in sentences(lowering))
    lines = [
        f"## {model['name']}",
        f"- Lowering ({lowering.get('numerics')} numerics): {lowering.get('skip_adds')} skip-adds with "
        f"errors of at most {lowering.get('largest_skip_add_error')} integer steps, "
        f"{lowering.get('float_tensors')} float tensors inside.{proven}",
        f"- Weights: {weights.get('count')} in {weights.get('bytes')} bytes, "
        f"{weights.get('bytes_per_weight')} bytes a weight.",
        f"- {model['preprocessing']}",
        "- Seconds: " + ", ".join(f"{step} {seconds}" for step, seconds in model["seconds"].items()) + ".",
    ]
    return "\n".join(lines)


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
