"""What lowering did, as JSON: proofs of requantizations, bounds of skip-adds, ranges."""

from __future__ import annotations

from collections import Counter
from typing import Any, TypeAlias

import numpy as np

from aqd_deploy.integer.fixedpoint import MultiplyShift
from aqd_deploy.passes.graph import Graph, Node
from aqd_deploy.passes.integer_operations import (
    REQUANTIZATIONS,
    Bias,
    Requantize,
    RequantizeMax,
    Settled,
    SharedThreshold,
    SkipAdd,
    Threshold,
)
from aqd_deploy.passes.proven import FIELDS

REPORT_SCHEMA = 1


def build_report(graph: Graph, numerics: str) -> dict[str, Any]:
    """The report of a lowered graph, without the passes' explanations.

    `proven` counts channels whose constants give every integer that can reach them the code of its value;
    `proven_of_network` those of them whose integers were not rounded before; `equal_end_to_end` the
    requantizations with only such channels, in front of them as well (docs/proofs.md).
    """
    same = _same_codes(graph)
    requantizations = [
        _requantization(node, node.op, same[node.output])
        for node in graph.nodes
        if isinstance(node.op, REQUANTIZATIONS)
    ]
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
        "skip_adds": [_skip_add(node, node.op) for node in graph.nodes if isinstance(node.op, SkipAdd)],
        "settled": [_settled(node, node.op) for node in graph.nodes if isinstance(node.op, Settled)],
        "output_errors": {name: graph.heads[name].error for name in graph.outputs},
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


Requantization: TypeAlias = Requantize | RequantizeMax | Threshold | SharedThreshold


_FORMS: dict[type[Requantization], str] = {
    Requantize: "multiply-shift",
    RequantizeMax: "two multiply-shifts",
    Threshold: "thresholds",
    SharedThreshold: "thresholds",
}


def deviations(op: Requantization) -> list[int]:
    """How many integers of each channel get another code than their value's. Thresholds are exact by
    construction.
    """
    if isinstance(op, Requantize):
        return op.solution.deviations
    return [0] * op.stairs.channels if isinstance(op, Threshold) else op.deviations


def proven_channels(op: Requantization) -> np.ndarray:
    """Which channels have proven constants, bool [C]."""
    return np.array(deviations(op)) == 0


def proven_of_network(op: Requantization) -> np.ndarray:
    """Which proven channels read integers without rounding error, bool [C]."""
    return proven_channels(op) & (op.input_errors == 0)


def _same_codes(graph: Graph) -> dict[str, bool]:
    """Of every tensor, whether all codes that it is made of are those of the exact network."""
    same: dict[str, bool] = {}
    for node in graph.nodes:
        here = all(same.get(name, True) for name in node.inputs)
        if isinstance(node.op, REQUANTIZATIONS):
            here = here and bool(proven_of_network(node.op).all())
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


def _requantization(node: Node, op: Requantization, equal: bool) -> dict[str, Any]:
    """One requantization; `equal` is its `equal_end_to_end`."""
    wrong = deviations(op)
    entry = {
        "node": node.label,
        "output": node.output,
        "form": _FORMS[type(op)],
        "channels": len(wrong),
        "proven": int(proven_channels(op).sum()),
        "proven_of_network": int(proven_of_network(op).sum()),
        "steps": len(op.thresholds) if isinstance(op, SharedThreshold) else op.stairs.quantizer.steps,
        "deviations": sum(wrong),
        "most_deviations": max(wrong),
        "input_error_steps": float(op.input_errors.max()),
        "equal_end_to_end": equal,
    }
    if isinstance(op, Requantize):
        entry |= _multipliers(op.solution.constants)
        stairs = op.stairs
        bounds = zip(stairs.lo.tolist(), stairs.hi.tolist(), op.solution, strict=True)
        # Over −η a reflected channel has the multiplier −c.
        entry["fits_32_bits"] = sum(
            m.fits_32(lo, hi) if m.c >= 0 else m.fits_32(-hi, -lo) for lo, hi, m in bounds
        )
    return entry


def _skip_add(node: Node, op: SkipAdd) -> dict[str, Any]:
    return {
        "node": node.label,
        "output": node.output,
        "channels": len(op.left.forms),
        "operands": [_multipliers(op.left.constants), _multipliers(op.right.constants)],
        "error_bound": float(op.error.max()),
        "accumulated_error_bound": float(op.accumulated_error.max()),
    }


def _settled(node: Node, op: Settled) -> dict[str, Any]:
    return {
        "node": node.label,
        "output": node.output,
        "form": "bias" if isinstance(op, Bias) else "multiply-shift",
        "channels": len(op.constants),
        "error_bound": float(op.error.max()),
    }
