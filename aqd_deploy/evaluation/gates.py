"""Promises about accuracy that a CI can hold: `--gate`.

    [STAGE.]NUMBER OPERATOR LIMIT        ap>=0.30   program.ap50>=0.5   voc>0.7
    [STAGE.]drop[.NUMBER] OPERATOR LIMIT drop<=0.002   drop.ap50<=0.01

NUMBER is one of COCO's twelve or VOC AP, in any case, from 0 to 1. Without STAGE the last one is meant.
`drop` is what the first stage has more than this one, of AP where no other number is named.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aqd_deploy.errors import AqdError, GateError
from aqd_deploy.evaluation.accuracy import NUMBERS

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt,
}  # fmt: skip
_GATE = re.compile(r"\s*([\w.]+)\s*(>=|<=|>|<)\s*(\S+)\s*")
_NAMES = {name.lower(): name for name in NUMBERS}
_DROP = "drop"
_VALID = f"[STAGE.]NUMBER>=LIMIT or [STAGE.]drop[.NUMBER]<=LIMIT; NUMBER is {', '.join(_NAMES)}, from 0 to 1"


@dataclass(frozen=True)
class Gate:
    """What was `asked`: whether `metric` of `stage`, or what it is less than the first one's (`drop`), is on
    the right side of `limit`.
    """

    asked: str
    stage: str
    metric: str
    drop: bool
    operator: str
    limit: float

    def measured(self, accuracy: Mapping[str, Mapping[str, Any]], first: str) -> dict[str, Any]:
        """The gate's entry of a report, with the `value` (null where there is no such object, which meets no
        gate); `accuracy` by stage.
        """
        value = accuracy[self.stage][self.metric]
        if self.drop:
            # Without what float64 adds to a difference of numbers with a few digits.
            value = round(accuracy[first][self.metric] - value, 9)
        return {
            "asked": self.asked,
            "metric": f"{_DROP}.{self.metric}" if self.drop else self.metric,
            "stage": self.stage,
            "value": None if math.isnan(value) else value,
            "limit": self.limit,
            "met": not math.isnan(value) and _OPERATORS[self.operator](value, self.limit),
        }


def parse_gate(text: str, stages: Sequence[str]) -> Gate:
    """The gate that `text` asks for, of stages that are evaluated in this order. Raises AqdError."""
    match = _GATE.fullmatch(text)
    if match is None:
        raise _refused(text, _VALID)
    *words, last = match[1].split(".")
    stage = words.pop(0) if words and words[0].lower() != _DROP else stages[-1]
    if stage not in stages:
        raise _refused(text, f"a stage that is evaluated: {', '.join(stages)}")
    names = [*(word.lower() for word in words), last.lower()]
    drop = names[0] == _DROP
    names = names[1:] or ["ap"] if drop else names
    limit = _limit(match[3])
    if len(names) != 1 or names[0] not in _NAMES or math.isnan(limit):
        raise _refused(text, _VALID)
    if drop and stage == stages[0]:
        raise _refused(text, f"two stages or more: the drop of {stage}, the first one, is from itself")
    return Gate(text.strip(), stage, _NAMES[names[0]], drop, match[2], limit)


def check_gates(entries: Sequence[Mapping[str, Any]]) -> None:
    """Raise GateError where an entry of `Gate.measured` is not met."""
    failed = [entry for entry in entries if not entry["met"]]
    if failed:
        found = [
            f"{each['metric']} of {each['stage']} is "
            + ("not there" if each["value"] is None else f"{each['value']:.4f}")
            for each in failed
        ]
        asked = ", ".join(each["asked"] for each in failed)
        raise GateError(
            f"{len(failed)} of {len(entries)} gates failed", received=", ".join(found), valid=asked
        )


def _limit(text: str) -> float:
    """A number of −1 to 1, else NaN."""
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if -1 <= value <= 1 else math.nan


def _refused(text: str, valid: str) -> AqdError:
    return AqdError("this is not a gate", received=repr(text), valid=valid)
