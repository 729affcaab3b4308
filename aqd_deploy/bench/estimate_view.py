"""The text view of an estimate, at most 80 columns, under a heading of its own."""

from __future__ import annotations

import textwrap
from typing import Any

from aqd_deploy.bench.view import shortened
from aqd_deploy.tables import WIDTH, key_values, table

_NAME_WIDTH = 17


def estimate_view(document: dict[str, Any]) -> str:
    """Heading, the figures it rests on and what they lack, then a table and a total a number of threads."""
    parts = [_heading(document), _figures(document)]
    if document["missing_keys"]:
        parts.append(_wrapped(
            f"the profile {document['profile']} lacks {', '.join(document['missing_keys'])}: no time can be "
            "told from it; set the key in a profile of your own that extends it"
        ))  # fmt: skip
    for entry in document["estimates"]:
        parts.append(f"{_layers(entry)}\n{_total(entry)}")
    parts.append(_inner_loops(document))
    return "\n\n".join(filter(None, parts))


def _heading(document: dict[str, Any]) -> str:
    title = f"ESTIMATE for {document['profile']}, nothing was measured: {document['file']}"
    if document["compiled_for"] != document["profile"]:
        title += f" (kernels of a program for {document['compiled_for']})"
    return _wrapped(title)


def _figures(document: dict[str, Any]) -> str:
    figures, sources = document["figures"], document["sources"]
    return key_values({
        key: "not in the profile" if value is None else f"{value} ({sources.get(key, 'no source named')})"
        for key, value in figures.items()
    })  # fmt: skip


def _layers(entry: dict[str, Any]) -> str:
    headers = ["layer", "kernel", "M mult.", "kB", "mult./B", "bound", "ms"]
    rows = [
        [
            shortened(layer["name"], _NAME_WIDTH),
            layer["kernel"],
            f"{layer['multiplications'] / 1e6:.2f}",
            f"{layer['bytes'] / 1e3:.1f}",
            "-" if layer["multiplications_per_byte"] is None else f"{layer['multiplications_per_byte']:.1f}",
            layer["bound"] or "-",
            _milliseconds(layer["ms"]),
        ]
        for layer in entry["layers"]
    ]
    return table(headers, rows)


def _total(entry: dict[str, Any]) -> str:
    total = "unknown" if entry["total_ms"] is None else f"{entry['total_ms']:.3f} ms"
    threads = entry["threads"]
    cycles = entry["multiplication_cycles"]
    at_peak = "" if cycles is None else f", which take {cycles / 1e6:.2f} M cycles at the peak,"
    return _wrapped(
        f"estimated, {threads} thread{'s' if threads > 1 else ''} on {entry['cores_used']} "
        f"core{'s' if entry['cores_used'] > 1 else ''}: {total} for {entry['multiplications'] / 1e9:.3f} G "
        f"multiplications{at_peak} and {entry['bytes'] / 1e6:.1f} MB; {entry['compute_bound_layers']} layers "
        f"bound by compute, {entry['memory_bound_layers']} by memory"
    )


def _inner_loops(document: dict[str, Any]) -> str:
    """Cycles by the simulator, a table of its own: the figures above do not rest on them."""
    told, entries = document["inner_loops"], document["estimates"]
    note = [_wrapped(f"inner loops: {told['note']}")] if told["note"] else []
    if not any(layer["inner_loop"] for layer in entries[0]["layers"]):
        return "\n".join(note)
    head = _wrapped(
        f"inner loops simulated by llvm-mca for {told['cpu']}, nothing was measured: every load from the "
        "first cache, nothing around the loop counted"
    )
    headers = ["layer", "kernel", "cycles/mult.", "M cycles"]
    headers += [f"ms on {entry['cores_used']}" for entry in entries]
    rows = [
        [
            shortened(first["name"], _NAME_WIDTH),
            first["kernel"],
            f"{first['inner_loop']['cycles_per_product']:.4f}",
            f"{first['inner_loop_cycles'] / 1e6:.3f}",
            *(_milliseconds(each["inner_loop_ms"]) for each in (first, *others)),
        ]
        for first, *others in zip(*(entry["layers"] for entry in entries), strict=True)
        if first["inner_loop"]
    ]
    return "\n".join([head, table(headers, rows), _simulated(entries), *note])


def _simulated(entries: list[dict[str, Any]]) -> str:
    """The cycles of all inner loops, and the time on each number of cores where the clock is known."""
    cycles = sum(layer["inner_loop_cycles"] or 0 for layer in entries[0]["layers"])
    times = [
        f"{sum(layer['inner_loop_ms'] or 0 for layer in entry['layers']):.3f} ms on {entry['cores_used']}"
        for entry in entries
        if any(layer["inner_loop_ms"] for layer in entry["layers"])
    ]
    return _wrapped(", ".join([f"simulated: {cycles / 1e6:.1f} M cycles", *times]))


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.wrap(text, WIDTH))
