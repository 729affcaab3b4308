"""What lowering did, as JSON: proofs of requantizations, bounds of skip-adds, ranges."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from aqd_deploy.integer.fixedpoint import MultiplyShift
from aqd_deploy.passes.graph import Graph, Node
from aqd_deploy.passes.proven import FIELDS

REPORT_SCHEMA = 1
REQUANTIZATIONS = ("Requantize", "Threshold")


def build_report(graph: Graph, numerics: str) -> dict[str, Any]:
    """The report of a lowered graph, without the passes' explanations.

    `proven` counts channels whose constants give every integer that can reach them the level of its value;
    `proven_of_network` those of them whose integers are no rounded ones; `equal_end_to_end` the
    requantizations with only such channels, in front of them as well (docs/proofs.md).
    """
    same = _same_codes(graph)
    requantizations = [_requantization(n, same[n.output]) for n in graph.nodes if n.op in REQUANTIZATIONS]
    channels = sum(entry["channels"] for entry in requantizations)
    proven = sum(entry["proven"] for entry in requantizations)
    return {
        "schema": REPORT_SCHEMA,
        "numerics": numerics,
        "requantized_channels": channels,
        "proven": proven,
        "proven_share": proven / channels if channels else 1.0,
        "proven_of_network": sum(entry["proven_of_network"] for entry in requantizations),
        "largest_input_error_steps": max(
            (entry["input_error_steps"] for entry in requantizations), default=0.0
        ),
        "requantizations_count": len(requantizations),
        "equal_end_to_end": sum(entry["equal_end_to_end"] for entry in requantizations),
        "float_tensors": 0,
        "requantizations": requantizations,
        "skip_adds": [_skip_add(node) for node in graph.nodes if node.op == "SkipAdd"],
        "settled": [_settled(node) for node in graph.nodes if node.op in ("Bias", "MultiplyShift")],
        "output_errors": graph.manifest.get("output_errors", {}),
        "ranges": {
            node.output: dict(
                zip(("lo", "hi", "storage"), (*_bounds(graph, node), _storage(graph, node)), strict=True)
            )
            for node in graph.nodes
        },
    }


def summary(report: dict[str, Any]) -> dict[str, Any]:
    """The manifest's `lowering` entry."""
    return {key: report[key] for key in FIELDS}


def proven_channels(node: Node) -> np.ndarray:
    """Which channels have proven constants, bool [C]. Thresholds are exact by construction."""
    stairs, solution = node.attributes["stairs"], node.attributes["solution"]
    return np.ones(stairs.channels, bool) if node.op == "Threshold" else np.array(solution.proven, bool)


def proven_of_network(node: Node) -> np.ndarray:
    """Which proven channels read integers without rounding error, bool [C]."""
    return proven_channels(node) & (node.attributes["input_errors"] == 0)


def _same_codes(graph: Graph) -> dict[str, bool]:
    """Of every tensor, whether all codes that it is made of are those of the exact network."""
    same: dict[str, bool] = {}
    for node in graph.nodes:
        here = all(same.get(name, True) for name in node.inputs)
        if node.op in REQUANTIZATIONS:
            here = here and bool(proven_of_network(node).all())
        same[node.output] = here
    return same


def _bounds(graph: Graph, node: Node) -> tuple[int, int]:
    return graph.ranges[node.output].bounds


def _storage(graph: Graph, node: Node) -> str:
    return graph.ranges[node.output].storage()


def _multipliers(constants: list[MultiplyShift]) -> dict[str, Any]:
    """Bits of c and shifts over all channels."""
    bits = Counter(abs(m.c).bit_length() for m in constants)
    return {
        "c_bits": {"min": min(bits), "max": max(bits)},
        "d": {"min": min(m.d for m in constants), "max": max(m.d for m in constants)},
        "identity": all((m.c, m.b, m.d) == (1, 0, 0) for m in constants),
    }


def _requantization(node: Node, equal: bool) -> dict[str, Any]:
    """One requantization; `equal` is its `equal_end_to_end`."""
    stairs, solution = node.attributes["stairs"], node.attributes["solution"]
    exact = node.op == "Threshold"
    bounds = list(zip(stairs.lo.tolist(), stairs.hi.tolist(), solution, strict=True))
    entry = {
        "node": node.label,
        "output": node.output,
        "form": "thresholds" if exact else "multiply-shift",
        "channels": stairs.channels,
        "proven": int(proven_channels(node).sum()),
        "proven_of_network": int(proven_of_network(node).sum()),
        "steps": stairs.quantizer.steps,
        "deviations": 0 if exact else sum(solution.deviations),
        "most_deviations": 0 if exact else max(solution.deviations),
        "input_error_steps": float(node.attributes["input_errors"].max()),
        "equal_end_to_end": equal,
    }
    if not exact:
        entry |= _multipliers(solution.constants)
        # Over −η a reflected channel has the multiplier −c.
        entry["fits_32_bits"] = sum(
            m.fits_32(lo, hi) if m.c >= 0 else m.fits_32(-hi, -lo) for lo, hi, m in bounds
        )
    return entry


def _skip_add(node: Node) -> dict[str, Any]:
    left, right = node.attributes["left"], node.attributes["right"]
    return {
        "node": node.label,
        "output": node.output,
        "channels": len(left.forms),
        "operands": [_multipliers(left.constants), _multipliers(right.constants)],
        "error_bound": float(node.attributes["error"].max()),
        "accumulated_error_bound": float(node.attributes["accumulated_error"].max()),
    }


def _settled(node: Node) -> dict[str, Any]:
    return {
        "node": node.label,
        "output": node.output,
        "form": "bias" if node.op == "Bias" else "multiply-shift",
        "channels": len(node.attributes["constants"]),
        "error_bound": float(node.attributes["error"].max()),
    }
