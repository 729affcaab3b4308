"""The layer table: what each kernel of a program takes, beside what the machine could do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

MEMORY, ARITHMETIC = "memory", "arithmetic"
DATA_SHEET = "data sheet"
"""What a roof is called that was not measured."""


@dataclass(frozen=True)
class Roof:
    """The machine at its best: multiply-accumulates, and bytes read from memory, a second."""

    peak: float
    memory: float

    def bound_by(self, macs: int, moved: int) -> str | None:
        """What takes longer at its best; None where nothing is done or moved."""
        if not macs and not moved:
            return None
        return MEMORY if moved / self.memory > macs / self.peak else ARITHMETIC


def layer_table(
    profiles: Sequence[Sequence[tuple[str, float]]],
    layers: Sequence[dict[str, Any]],
    roof: Roof,
    whole: float,
) -> list[dict[str, Any]]:
    """One entry a kernel call, in order; `profiles` are those of `Program.profile`, of which the best counts.

    `layers` are the manifest's, one a call: names need not differ. `whole` are the seconds of the fastest run
    without clocks, whose part `share_of_time` is. Effective MAC/s count the convolution's
    multiply-accumulates; `share_of_peak` those that were executed, of which Winograd needs fewer.
    `macs_per_byte` are executed ones by the `bytes` of weights (as expanded for the kernel), inputs and
    outputs, each moved once; `bound_by` is what limits them where all bytes come from memory.
    """
    best = [min(seconds for _, seconds in calls) for calls in zip(*profiles, strict=True)]
    return [_entry(seconds, whole, layer, roof) for seconds, layer in zip(best, layers, strict=True)]


def between_layers(table: Sequence[dict[str, Any]], whole: float) -> dict[str, float]:
    """What `whole`, as in `layer_table`, has beside the kernels: calls, inputs and outputs. Each kernel's
    time has the clock's cost in it, a few µs, so of a run of many short ones less than nothing may be left.
    """
    seconds = whole - sum(entry["ms"] for entry in table) / 1e3
    return {"ms": round(seconds * 1e3, 4), "share_of_time": round(seconds / whole, 4)}


def _entry(seconds: float, whole: float, layer: dict[str, Any], roof: Roof) -> dict[str, Any]:
    macs = layer.get("macs", 0)
    executed = layer.get("executed_macs") or macs
    moved = sum(layer.get(key, 0) for key in ("weight_bytes", "input_bytes", "output_bytes"))
    return {
        "name": layer["name"],
        "operation": layer["operation"],
        "kernel": layer["kernel"],
        "why": layer["why"],
        "output": layer.get("output"),
        "weight_bits": layer.get("weight_bits", 0),
        "ms": round(seconds * 1e3, 4),
        "share_of_time": round(seconds / whole, 4),
        "macs": macs,
        "executed_macs": executed,
        "bytes": moved,
        "macs_per_byte": round(executed / moved, 4) if macs and moved else None,
        "gb_per_s": round(moved / seconds / 1e9, 2) if moved and seconds else None,
        "bound_by": roof.bound_by(executed, moved),
        **_rates(seconds, macs, executed, roof),
    }


def _rates(seconds: float, macs: int, executed: int, roof: Roof) -> dict[str, float | None]:
    if not macs or not seconds:
        return {"effective_gmacs_per_s": None, "executed_gmacs_per_s": None, "share_of_peak": None}
    return {
        "effective_gmacs_per_s": round(macs / seconds / 1e9, 2),
        "executed_gmacs_per_s": round(executed / seconds / 1e9, 2),
        "share_of_peak": round(executed / seconds / roof.peak, 4),
    }


def family_totals(table: Sequence[dict[str, Any]], roof: Roof) -> list[dict[str, Any]]:
    """Totals by kernel family, or by operation where nothing is multiplied; the slowest first."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for entry in table:
        groups.setdefault(entry["kernel"] if entry["macs"] else entry["operation"], []).append(entry)
    totals = []
    for name, entries in groups.items():
        seconds = sum(entry["ms"] for entry in entries) / 1e3
        macs = sum(entry["macs"] for entry in entries)
        executed = sum(entry["executed_macs"] for entry in entries)
        totals.append(
            {
                "family": name,
                "layers": len(entries),
                "ms": round(seconds * 1e3, 4),
                "share_of_time": round(sum(entry["share_of_time"] for entry in entries), 4),
                "macs": macs,
                "executed_macs": executed,
                **_rates(seconds, macs, executed, roof),
            }
        )
    return sorted(totals, key=lambda entry: -entry["ms"])
