"""What follows from the numbers of a report: the ladder of AP from stage to stage, and what the way cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

STAGES = ("float", "fake_quantized", "integer_reference", "program")
"""The way of a network: each stage is made of the one before it."""
_DIGITS = 9


def summary_of(model: Mapping[str, Any]) -> dict[str, Any]:
    """`ladder`: AP of each stage that was evaluated, the stage `before` it and the `change` from there, None
    where one is not known. `drop`: what the last stage has less than the first.
    """
    known = [(stage, accuracy.get("AP")) for stage in STAGES if (accuracy := model["accuracy"].get(stage))]
    ladder = []
    before: tuple[str | None, float | None] = (None, None)
    for stage, value in known:
        ladder.append({"stage": stage, "AP": value, "before": before[0], "change": _less(value, before[1])})
        before = (stage, value)
    return {"ladder": ladder, "drop": _less(known[0][1], known[-1][1]) if len(known) > 1 else None}


def _less(first: float | None, second: float | None) -> float | None:
    """Without what float64 adds to a difference of numbers with a few digits."""
    return None if first is None or second is None else round(first - second, _DIGITS)
