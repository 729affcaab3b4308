"""What lowering did, as JSON: proofs of requantizations, bounds of skip-adds, ranges."""

from __future__ import annotations

from collections import Counter
from typing import Any

from aqd_deploy.integer.fixedpoint import MultiplyShift
from aqd_deploy.passes.graph import Graph, Node

REPORT_SCHEMA = 1


def build_report(graph: Graph, numerics: str) -> dict[str, Any]:
    """The report of a lowered graph, without the passes' explanations."""
    requantizations = [_requantization(n) for n in graph.nodes if n.op in ("Requantize", "Threshold")]
    channels = sum(entry["channels"] for entry in requantizations)
    proven = sum(entry["proven"] for entry in requantizations)
    return {
        "schema": REPORT_SCHEMA,
        "numerics": numerics,
        "requantized_channels": channels,
        "proven": proven,
        "proven_share": proven / channels if channels else 1.0,
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
    keys = ("numerics", "requantized_channels", "proven", "float_tensors")
    return {key: report[key] for key in keys}


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


def _requantization(node: Node) -> dict[str, Any]:
    """One requantization. Thresholds are exact by construction, so all their channels are proven."""
    stairs, solution = node.attributes["stairs"], node.attributes["solution"]
    exact = node.op == "Threshold"
    bounds = list(zip(stairs.lo.tolist(), stairs.hi.tolist(), solution, strict=True))
    entry = {
        "node": node.label,
        "output": node.output,
        "form": "thresholds" if exact else "multiply-shift",
        "channels": stairs.channels,
        "proven": stairs.channels if exact else solution.proven.count(True),
        "steps": stairs.quantizer.steps,
        "deviations": 0 if exact else sum(solution.deviations),
        "most_deviations": 0 if exact else max(solution.deviations),
        "input_error_steps": node.attributes["input_error"],
    }
    if not exact:
        entry |= _multipliers(solution.constants)
        upright = ((lo, hi, MultiplyShift(abs(m.c), m.b, m.d)) for lo, hi, m in bounds)
        entry["fits_32_bits"] = sum(m.fits_32(lo, hi) for lo, hi, m in upright)
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
