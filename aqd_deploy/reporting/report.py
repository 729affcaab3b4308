"""The report: one versioned JSON document, of which Markdown and the terminal's table are views.

`report.json` has `schema` (REPORT_SCHEMA), `kind`, `created`, `environment`, `images` and `models`; a model
has `name`, `manifest`, `preprocessing`, `files`, `weights`, `lowering`, `accuracy`, `agreement`, `latency`
and `seconds`. The variants of a model, in accuracy, agreement and latency, are those of VARIANTS.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aqd_deploy.environment import environment
from aqd_deploy.errors import AqdError
from aqd_deploy.inputs import MIB, FileKind
from aqd_deploy.passes.proven import sentences
from aqd_deploy.schema import SchemaError, anything, list_of, nothing_or, number, table_of, whole
from aqd_deploy.schema import table as table_schema
from aqd_deploy.tables import markdown_table, table_blocks

REPORT_SCHEMA = 2
VARIANTS = {
    "float": "float",
    "fake_quantized": "fake-quantized",
    "integer_reference": "integer reference",
    "program": "compiled program",
    "onnxruntime_int8": "onnxruntime INT8",
}
_REPORT_FILE = FileKind("report", "a report.json written by demo", 256 * MIB)
_TOP = {"schema": int, "kind": str, "created": str, "environment": dict, "images": dict, "models": list}
_MODEL = {
    "name": str, "manifest": dict, "preprocessing": str, "files": dict, "weights": dict, "lowering": dict,
    "accuracy": dict, "agreement": dict, "latency": dict, "seconds": dict,
}  # fmt: skip
_FIGURE = nothing_or(number())
_MEASURED = table_schema(
    {}, {"contenders": table_of(table_schema({}, {"median_ms": _FIGURE, "min_ms": _FIGURE}))}
)
REPORTS = ("report.json", "report.md")
_PARTS = table_schema({
    "environment": table_schema({"cpu": anything, "threads": anything, "system": anything,
    "packages": table_of(anything)}),
    "models": list_of(table_schema({
        "files": table_of(nothing_or(table_schema({"bytes": number(0)}))),
        "accuracy": table_of(nothing_or(table_of(_FIGURE))),
        "agreement": table_of(nothing_or(table_schema({}, {"differing": whole(), "correlation": _FIGURE}))),
        "lowering": table_schema({}, {"proven_share": _FIGURE}),
        "latency": table_schema({}, {"measured": list_of(_MEASURED)}),
    })),
})  # fmt: skip
_HEADERS = ("model", "form", "AP", "AP50", "heads", "MB", "ms", "best ms")


def make_report(kind: str, images: dict[str, Any], models: list[dict[str, Any]]) -> dict[str, Any]:
    """The document of `kind` (`demo`), checked; NaN and infinity become null."""
    document = {
        "schema": REPORT_SCHEMA,
        "kind": kind,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": environment(),
        "images": images,
        "models": models,
    }
    return check_report(_finite(document))


def check_report(document: Any) -> dict[str, Any]:
    """The document itself; AqdError where it is not a report of this schema."""
    if not isinstance(document, dict):
        raise AqdError("a report is a JSON object", received=type(document).__name__)
    if document.get("schema") != REPORT_SCHEMA:
        raise AqdError(
            "the report has another schema", received=document.get("schema"), valid=str(REPORT_SCHEMA)
        )
    _check_fields(document, _TOP, "the report")
    for index, model in enumerate(document["models"]):
        if not isinstance(model, dict):
            raise AqdError(f"model {index} of the report is not an object", received=type(model).__name__)
        _check_fields(model, _MODEL, f"model {index} of the report")
        unknown = sorted({each for part in ("accuracy", "agreement") for each in model[part]} - set(VARIANTS))
        if unknown:
            raise AqdError(
                "the report has an unknown variant", received=unknown[0], valid=", ".join(VARIANTS)
            )
    try:
        _PARTS(document, "")
    except SchemaError as error:
        raise error.of("the report", AqdError) from error
    return document


def read_report(path: Path) -> dict[str, Any]:
    """The report of a file; AqdError where it is missing, not JSON or of another schema."""
    return check_report(_REPORT_FILE.read_json(path))


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
    entry = model["agreement"].get(variant)
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
    measured: dict[str, Any] = next(iter(model["latency"].get("measured", [])), {})
    entry = measured.get("contenders", {}).get(contender.get(variant, ""), {})
    return [entry.get("median_ms"), entry.get("min_ms")]


def _check_fields(entry: dict[str, Any], fields: Mapping[str, type], what: str) -> None:
    for name, kind in fields.items():
        if not isinstance(entry.get(name), kind):
            received = type(entry[name]).__name__ if name in entry else "nothing"
            raise AqdError(f"{what} has no valid {name!r}", received=received, valid=kind.__name__)


def _finite(value: Any) -> Any:
    """The same document with null in place of numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
