"""Schema 3: the file that ships says what the code checks, and what follows from numbers is computed once."""

from __future__ import annotations

import copy
import importlib.resources
import json

import pytest

from aqd_deploy.errors import AqdError
from aqd_deploy.reporting.document import (
    REPORT_SCHEMA,
    VARIANTS,
    check_report,
    make_report,
    read_report,
    report_schema,
    stage_labels,
)
from aqd_deploy.schema import flag, json_schema, nothing_or, number, one_or_list, table_by, whole
from aqd_deploy.schema import text as is_text

MODEL = {
    "name": "m", "files": {"program": {"file": "m.so", "bytes": 10, "sha256": "ab"}},
    "seconds": {"lower": 1.5},
    "summary": {"ladder": [], "drop": None},
    "accuracy": {"float": {"AP": 0.61}, "fake_quantized": {"AP": 0.6}, "integer_reference": None,
                 "program": {"AP": 0.595, "per_class": {"cat": None, "dog": 0.25}}},
}  # fmt: skip
IMAGES = {"folder": "images", "count": 3, "annotated": True, "format": "coco",
          "annotations": {"file": "a.json", "sha256": "cd"}}  # fmt: skip


def document(**changes):
    return {**make_report("eval", IMAGES, [copy.deepcopy(MODEL)]), **changes}


def test_the_schema_file_is_that_of_the_code():
    shipped = importlib.resources.files("aqd_deploy.reporting") / "schema" / f"report-{REPORT_SCHEMA}.json"
    assert json.loads(shipped.read_text()) == report_schema(), "python tools/report_schema.py writes it anew"


def test_checks_tell_what_they_want():
    assert json_schema(whole(1, 5)) == {"type": "integer", "minimum": 1, "maximum": 5}
    assert json_schema(number(0, above=0)) == {"type": "number", "minimum": 0, "exclusiveMinimum": 0}
    assert json_schema(nothing_or(flag)) == {"anyOf": [{"type": "null"}, {"type": "boolean"}]}
    strings = {"type": "array", "items": {"type": "string"}, "minItems": 1}
    assert json_schema(one_or_list(is_text)) == {"anyOf": [{"type": "string"}, strings]}
    keys = {"type": "object", "propertyNames": {"enum": ["a"]}, "additionalProperties": {"type": "string"}}
    assert json_schema(table_by("a", is_text)) == keys
    assert json_schema(lambda value, place: None) == {}


def test_the_ladder():
    summary = document()["models"][0]["summary"]
    assert summary["drop"] == 0.015
    assert [(step["stage"], step["before"], step["change"]) for step in summary["ladder"]] == [
        ("float", None, None),
        ("fake_quantized", "float", -0.01),
        ("program", "fake_quantized", -0.005),
    ]


def test_a_device_stands_beside_its_stage():
    assert stage_labels(MODEL) == VARIANTS
    assert stage_labels({"device": "ssh:pi"})["program"] == "compiled program on ssh:pi"


def test_without_accuracy_nothing_follows():
    found = make_report("demo", {"folder": "f", "count": 0}, [{**MODEL, "accuracy": {}}])
    assert found["models"][0]["summary"] == {"ladder": [], "drop": None}


def test_the_command_is_as_typed(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/usr/lib/aqd_deploy/__main__.py", "demo", "-o", "d"])
    assert document()["command"] == ["aqd-deploy", "demo", "-o", "d"]


def test_a_folder_stands_for_its_report(tmp_path):
    (tmp_path / "report.json").write_text(json.dumps(document()))
    assert read_report(tmp_path) == read_report(tmp_path / "report.json")
    (tmp_path / "empty").mkdir()
    with pytest.raises(AqdError, match=r"no such report.*aqd-deploy demo"):
        read_report(tmp_path / "empty")


GATE = {"asked": "ap>=0.3", "metric": "AP", "stage": "program", "value": None, "limit": 0.3, "met": False}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "another schema; got 2; valid: 3; try: aqd-deploy demo"),
        ({"kind": "magic"}, "kind"),
        ({"gates": [{**GATE, "stage": "magic"}]}, r"gates\[0\].stage"),
        ({"gates": [{**GATE, "met": 1}]}, r"gates\[0\].met.*true or false"),
        ({"models": [{**MODEL, "accuracy": {"program": {"AP": 61}}}]}, "accuracy.program.AP"),
        ({"models": [{**MODEL, "files": {"magic": None}}]}, "files.magic.*onnxruntime_int8, checkpoint"),
        ({"models": [{**MODEL, "layers": [{}]}]}, r"layers\[0\].name"),
        ({"models": [{**MODEL, "numerics": {"best": {}}}]}, "numerics.best"),
        ({"models": [{**MODEL, "pictures": ["a.png"]}]}, r"pictures\[0\]"),
    ],
)
def test_what_is_not_of_the_schema_is_named(change, message):
    with pytest.raises(AqdError, match=message):
        check_report(document(**change))


def test_sections_may_be_missing_or_null():
    for section in ("manifest", "latency", "layers", "numerics", "cost", "steps", "pictures", "agreement"):
        check_report(document(models=[{**MODEL, section: None}]))
    check_report(document(gates=[GATE]))
    assert set(MODEL["accuracy"]) < set(VARIANTS)
