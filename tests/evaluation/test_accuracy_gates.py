"""The grammar of `--gate`, and what a gate says of measured numbers."""

from __future__ import annotations

import math

import pytest

from aqd_deploy.errors import AqdError, GateError
from aqd_deploy.evaluation.gates import check_gates, parse_gate

STAGES = ("float", "program")
ACCURACY = {
    "float": {"AP": 0.302, "AP50": 0.6, "APl": math.nan, "VOC": 0.5},
    "program": {"AP": 0.3, "AP50": 0.5, "APl": math.nan, "VOC": 0.5},
}


@pytest.mark.parametrize(
    ("text", "stage", "value", "met"),
    [
        ("ap>=0.30", "program", 0.3, True),
        ("ap>0.30", "program", 0.3, False),
        (" AP50 <= 0.4 ", "program", 0.5, False),
        ("float.voc<0.6", "float", 0.5, True),
        ("drop<=0.002", "program", 0.002, True),
        ("drop<0.002", "program", 0.002, False),
        ("drop.ap50<=0.05", "program", 0.1, False),
        ("program.drop>=-1", "program", 0.002, True),
        ("program.drop.voc<=0", "program", 0.0, True),
        ("apl>=0", "program", None, False),
        ("drop.apl<=1", "program", None, False),
    ],
)
def test_what_a_gate_says(text, stage, value, met):
    entry = parse_gate(text, STAGES).measured(ACCURACY, STAGES[0])
    assert (entry["asked"], entry["stage"], entry["met"]) == (text.strip(), stage, met)
    assert entry["value"] == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ap",
        "ap=0.3",
        "ap>=",
        "ap>=x",
        "ap>=30",
        "ap>=nan",
        "mAP>=0.3",
        "program>=0.3",
        "a.b.c>=0",
        "ap.drop<=0",
    ],
)
def test_what_is_no_gate(text):
    with pytest.raises(AqdError, match="this is not a gate"):
        parse_gate(text, STAGES)


def test_gates_of_stages_that_are_not_there():
    with pytest.raises(AqdError, match="a stage that is evaluated: float, program"):
        parse_gate("integer_reference.ap>=0.3", STAGES)
    with pytest.raises(AqdError, match="two stages or more"):
        parse_gate("drop<=0", ["program"])
    with pytest.raises(AqdError, match="from itself"):
        parse_gate("float.drop<=0", STAGES)


def test_failed_gates_are_told_together():
    entries = [
        parse_gate(text, STAGES).measured(ACCURACY, "float") for text in ("ap>=0.5", "apl>=0", "voc>=0")
    ]
    check_gates(entries[2:])
    with pytest.raises(GateError) as caught:
        check_gates(entries)
    assert caught.value.sentence() == (
        "2 of 3 gates failed; got AP of program is 0.3000, APl of program is not there; "
        "valid: ap>=0.5, apl>=0"
    )
