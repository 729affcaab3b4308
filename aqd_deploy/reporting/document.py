"""`report.json`: one versioned document of what was measured of networks, which `demo` and `eval` write.

Its fields are those of the schema below (docs/report.md says what they mean). A section that a run lacks is
null or absent. The stages of a network, wherever they are keys, are those of VARIANTS. The document has every
number that a view of it shows: what follows from others, such as the change of AP from stage to stage, is
added here (`completed`), so that views only format.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aqd_deploy.environment import environment
from aqd_deploy.errors import AqdError
from aqd_deploy.inputs import MIB, FileKind
from aqd_deploy.reporting.summary import summary_of
from aqd_deploy.schema import (
    SchemaError,
    anything,
    flag,
    json_schema,
    list_of,
    nothing_or,
    number,
    one_of,
    table,
    table_by,
    table_of,
    text,
    whole,
)

REPORT_SCHEMA = 3
REPORT = "report.json"
KINDS = ("demo", "eval")
VARIANTS = {
    "float": "float",
    "fake_quantized": "fake-quantized",
    "integer_reference": "integer reference",
    "program": "compiled program",
    "onnxruntime_int8": "onnxruntime INT8",
}
ACCURACY = (
    "AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl", "VOC",
)  # fmt: skip
_ANEW = "aqd-deploy demo -o DIR, or aqd-deploy eval FILE --annotations LABELS --images DIR -o DIR"
_REPORT_FILE = FileKind("report", "a report.json that demo or eval wrote", 256 * MIB, next_command=_ANEW)

_FIGURE = nothing_or(number())
_POSITIVE = nothing_or(number(0))
_SHARE = nothing_or(number(0, 1))
_COUNT = nothing_or(whole())
_STAGE = one_of(*VARIANTS)
_ACCURACY = table({}, {**dict.fromkeys(ACCURACY, _SHARE), "per_class": nothing_or(table_of(_SHARE))})
_DIFFERING = table({}, {"snr_db": _FIGURE, "differing": _COUNT, "count": _COUNT, "largest": _POSITIVE})
_AGREEMENT = table({}, {
    "correlation": _FIGURE, "max_abs": _POSITIVE, "mean_abs": _POSITIVE, "differing": _COUNT, "count": _COUNT,
    "largest": _POSITIVE,
})  # fmt: skip
_CONTENDER = table({}, {
    **dict.fromkeys(("first_ms", "min_ms", "median_ms", "p90_ms", "p99_ms", "images_per_s"), _FIGURE),
    "spread": _FIGURE, "rounds_ms": list_of(_FIGURE),
})  # fmt: skip
_RATIO = table({}, {
    "of_minima": _FIGURE, "of_medians": _FIGURE, "rounds_quartiles": list_of(_FIGURE), "noisy": flag,
})  # fmt: skip
_CALL = table({"name": text}, {
    "operation": text, "kernel": text, "why": text, "ms": _POSITIVE, "macs": _COUNT, "bytes": _COUNT,
    "macs_per_byte": _POSITIVE, "weight_bits": _COUNT, "effective_gmacs_per_s": _POSITIVE,
    "executed_gmacs_per_s": _POSITIVE, "share_of_peak": _POSITIVE, "share_of_time": _FIGURE,
    "gb_per_s": _POSITIVE, "bound_by": nothing_or(one_of("memory", "arithmetic")),
})  # fmt: skip
_MEASURED = table({}, {
    "threads": whole(1), "contenders": table_of(_CONTENDER), "ratios": table_of(_RATIO), "spread": _FIGURE,
    "fastest_int8": table_of(text), "layers": list_of(_CALL), "peak_gmacs_per_s": table_of(_POSITIVE),
    "read_gb_per_s": table_of(_POSITIVE),
})  # fmt: skip
_LATENCY = table({}, {
    "device": text, "environment": table({}, {"busy": flag, "others_cpus": _POSITIVE}),
    "measured": list_of(_MEASURED), "rounds": whole(),
    "runs_per_round": whole(), "input": text, "failed": list_of(table({})), "missing": list_of(table({})),
    "notes": table_of(text),
})  # fmt: skip
_LAYER = table({"name": text}, {
    "operation": text, "tensors": list_of(text), "head": flag, "alone": nothing_or(_DIFFERING),
    "accumulated": nothing_or(_DIFFERING), "program": nothing_or(_DIFFERING), "channels": _COUNT,
    "proven": _COUNT, "proven_share": _SHARE, "macs": _COUNT, "weight_bits": _COUNT,
    "activation_bits": _COUNT, "call": nothing_or(text), "kernel": nothing_or(text), "ms": _POSITIVE,
    "shared_by": _COUNT,
})  # fmt: skip
_SKIP_ADD = table(
    {"name": text}, {"bound_steps": _POSITIVE, "own_bound_steps": _POSITIVE, "seen_steps": _POSITIVE}
)
_NUMERICS = table({}, {
    "accuracy": nothing_or(_ACCURACY), "agreement": nothing_or(_AGREEMENT),
    "differing_codes": nothing_or(_DIFFERING), "proven_share": _SHARE, "refused": text,
})  # fmt: skip
_STEPS = table({}, {
    **dict.fromkeys(("preprocess_ms", "inference_ms", "decode_ms", "total_ms"), _POSITIVE),
    "images": whole(), "rounds": whole(), "inside": table_of(text),
})  # fmt: skip
_BY_BITS = table_of(whole())
_COST = table({}, {
    **dict.fromkeys(("weights_bytes_by_bits", "macs_by_bits", "products_by_bits", "adds_by_bits"), _BY_BITS),
    "file_bytes": _COUNT, "peak_mb": _POSITIVE, "energy_uj": nothing_or(table_of(_POSITIVE)),
    "scaled_energy_uj": nothing_or(table_of(_POSITIVE)), "float32_energy_uj": _POSITIVE,
    "area_um2": nothing_or(table_of(anything)), "source": text, "notes": table_of(text),
})  # fmt: skip
_PICTURE = table({"image": text}, {"float": nothing_or(text), "integer": nothing_or(text)})
_FILE = table({"file": text, "bytes": whole()}, {"sha256": text})
_LOWERING = table({}, {
    "numerics": text, "skip_adds": _COUNT, "float_tensors": _COUNT, "proven_share": _SHARE,
    "largest_skip_add_error": _POSITIVE, "requantized_channels": _COUNT, "proven": _COUNT,
})  # fmt: skip
_LADDER = table({"stage": _STAGE, "AP": _SHARE, "before": nothing_or(_STAGE), "change": _FIGURE})
_SUMMARY = table({"ladder": list_of(_LADDER), "drop": _FIGURE})
_MODEL = table(
    {"name": text, "files": table_by((*VARIANTS, "checkpoint"), nothing_or(_FILE)),
     "accuracy": table_by(VARIANTS, nothing_or(_ACCURACY)), "seconds": table_of(number(0)),
     "summary": _SUMMARY},
    {
        "manifest": nothing_or(table({})), "preprocessing": nothing_or(text), "record": anything,
        "device": nothing_or(text), "lowering": nothing_or(_LOWERING),
        "weights": nothing_or(table({}, {"count": _COUNT, "bytes": _COUNT, "bytes_per_weight": _POSITIVE})),
        "agreement": nothing_or(table_by(VARIANTS, nothing_or(_AGREEMENT))),
        "latency": nothing_or(_LATENCY), "layers": nothing_or(list_of(_LAYER)),
        "skip_adds": nothing_or(list_of(_SKIP_ADD)),
        "layer_agreement": nothing_or(table({}, {"images": _COUNT})),
        "numerics": nothing_or(table_by(("exact", "paper", "power-of-two"), nothing_or(_NUMERICS))),
        "steps": nothing_or(_STEPS), "cost": nothing_or(_COST), "pictures": nothing_or(list_of(_PICTURE)),
    },
)  # fmt: skip
_ENVIRONMENT = table({
    "cpu": anything, "threads": anything, "system": anything, "packages": table_of(anything),
}, {
    "clock_mhz": _POSITIVE, "governor": nothing_or(text), "load": _POSITIVE, "busy": nothing_or(flag),
})  # fmt: skip
_GATE = table({
    "asked": text, "metric": text, "stage": _STAGE, "value": _FIGURE, "limit": number(), "met": flag,
})  # fmt: skip
_IMAGES = table({"folder": text, "count": whole()}, {
    "annotated": flag, "format": nothing_or(one_of("coco", "voc", "yolo")),
    "annotations": nothing_or(table({"file": text, "sha256": text})),
})  # fmt: skip
_DOCUMENT = table(
    {"schema": one_of(REPORT_SCHEMA), "kind": one_of(*KINDS), "created": text, "environment": _ENVIRONMENT,
     "images": _IMAGES, "models": list_of(_MODEL)},
    {"command": list_of(text), "gates": list_of(_GATE)},
)  # fmt: skip


def stage_labels(model: Mapping[str, Any]) -> dict[str, str]:
    """VARIANTS, with the device beside the program where it ran on another."""
    device = model.get("device")
    return {**VARIANTS, "program": f"{VARIANTS['program']} on {device}"} if device else VARIANTS


def report_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of the document, as in `schema/report-3.json`."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"aqd-deploy report, schema {REPORT_SCHEMA}",
        **json_schema(_DOCUMENT),
    }


def make_report(
    kind: str,
    images: dict[str, Any],
    models: Sequence[dict[str, Any]],
    gates: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """The document of `kind` (of KINDS), completed and checked; NaN and infinity become null."""
    document = {
        "schema": REPORT_SCHEMA,
        "kind": kind,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": _command(sys.argv),
        "environment": environment(),
        "images": images,
        "gates": list(gates),
        "models": list(models),
    }
    return check_report(completed(_finite(document)))


def completed(document: dict[str, Any]) -> dict[str, Any]:
    """The document with the `summary` of every model: numbers that follow from others and that views show."""
    models = [{**model, "summary": summary_of(model)} for model in document["models"]]
    return {**document, "models": models}


def check_report(document: Any) -> dict[str, Any]:
    """The document itself; AqdError where it is not a report of this schema."""
    if not isinstance(document, dict) or "schema" not in document:
        raise AqdError(
            "the JSON document is not a report", received=_beginning(document), valid=_REPORT_FILE.valid,
            next_command=_ANEW,
        )  # fmt: skip
    if document["schema"] != REPORT_SCHEMA:
        raise AqdError(
            "the report has another schema", received=repr(document["schema"]), valid=str(REPORT_SCHEMA),
            next_command=_ANEW,
        )  # fmt: skip
    try:
        _DOCUMENT(document, "")
    except SchemaError as error:
        raise error.of("the report", AqdError, _ANEW) from error
    return document


def read_report(path: Path) -> dict[str, Any]:
    """The report of a file, or of the folder that it is in; AqdError where it is missing, not JSON or of
    another schema.
    """
    file = path / REPORT if path.is_dir() else path
    try:
        return check_report(_REPORT_FILE.read_json(file))
    except AqdError as error:
        if error.received is None or str(file) in str(error.received):
            raise
        raise AqdError(
            error.what, received=f"{error.received} in {file}", valid=error.valid,
            next_command=error.next_command,
        ) from error  # fmt: skip


def _beginning(document: Any) -> str:
    """What a document is that is not a report."""
    if not isinstance(document, dict):
        return {list: "a list"}.get(type(document), repr(document)[:40])
    return f"an object with {', '.join(list(document)[:4]) or 'nothing'}"


def _command(argv: Sequence[str]) -> list[str]:
    """As a person types it, wherever the program lies."""
    name = Path(argv[0]).name
    return ["aqd-deploy" if name == "__main__.py" else name, *argv[1:]]


def _finite(value: Any) -> Any:
    """The same document with null in place of numbers that JSON does not have."""
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
