"""What a search of bits found, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aqd_deploy.tables import bullets, table

_HEADERS = ("layer", "bits", "loss alone", "with all before", "ms", "of", "MB")
_LONGEST = 27


def search_view(document: Mapping[str, Any]) -> str:
    """The document of `workflow.search` in 80 columns: a row a layer; uniform widths beside the result."""
    rows = [
        (
            _short(row["layer"]),
            row["bits"],
            f"{row['loss_alone']:.3g}",
            f"{row['loss_accumulated']:.3g}",
            _number(row["ms"]),
            _number(row["ms_widest"]),
            f"{row['megabytes']:.3g}",
        )
        for row in document["layers"]
    ]
    entries = [
        ("found", document["total"]),
        *((f"{bits} bits", e) for bits, e in document["uniform"].items()),
    ]
    totals = [
        (name, f"{entry['drop']:.3g}", _number(entry["ms"]), f"{entry['megabytes']:.3g}")
        for name, entry in entries
    ]
    ((goal, limit),) = document["goal"].items()
    told = [
        f"at most {limit:g} {goal}; drop: {document['judged_by']}",
        "loss: of the outputs, this layer quantized alone, and all layers before it as well",
    ]
    if document["milliseconds_from"]:
        told.append(f"ms: {document['milliseconds_from']}; of: with the widest codes")
    return "\n\n".join([table(_HEADERS, rows), bullets(told), table(("bits", "drop", "ms", "MB"), totals)])


def _short(name: str) -> str:
    """The end of a name, which tells it from others."""
    return name if len(name) <= _LONGEST else f"…{name[1 - _LONGEST :]}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
