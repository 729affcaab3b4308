"""The report's schema and its views."""

from __future__ import annotations

import copy
import json

import pytest

from aqd_deploy.errors import AqdError
from aqd_deploy.reporting.document import REPORT_SCHEMA, check_report, make_report, read_report
from aqd_deploy.reporting.page.html import html_page
from aqd_deploy.reporting.page.markdown import markdown_page
from aqd_deploy.reporting.page.report_page import report_page
from aqd_deploy.reporting.report import rows, terminal_table, write_report

MODEL = {
    "name": "fcos_r18_digits_4bit",
    "manifest": {},
    "preprocessing": "Letterboxed to 160 x 160.",
    "files": {"fake_quantized": {"file": "m.qdq.onnx", "bytes": 930_000},
              "program": {"file": "m.so", "bytes": 10**6}},
    "weights": {"count": 100, "bytes": 50, "bytes_per_weight": 0.5},
    "lowering": {"numerics": "exact", "requantized_channels": 10, "proven": 10, "proven_share": 1.0,
                 "proven_of_network": 4, "largest_input_error_steps": 0.25, "requantizations_count": 3,
                 "equal_end_to_end": 1, "skip_adds": 2, "largest_skip_add_error": 0.5, "float_tensors": 0},
    "accuracy": {"float": {"AP": 0.6123, "AP50": 0.9}, "program": {"AP": 0.6, "AP50": float("nan")}},
    "agreement": {"float": {"correlation": 0.98}, "program": {"differing": 0, "count": 8070, "largest": 0}},
    "latency": {"measured": [{"contenders": {"aqd-deploy": {"median_ms": 1.25, "min_ms": 1.0},
                                             "onnxruntime float": {"median_ms": 2.5, "min_ms": 2.25},
                                             "onnxruntime int8": {"median_ms": 2.0, "min_ms": 1.75}}}]},
    "seconds": {"compile": 12.5},
}  # fmt: skip


SUMMARY = {"ladder": [], "drop": None}


@pytest.fixture
def document():
    return make_report("demo", {"folder": "images", "count": 24}, [copy.deepcopy(MODEL)])


def test_schema_and_environment(document):
    assert document["schema"] == REPORT_SCHEMA
    assert document["environment"]["packages"]["onnxruntime"]
    assert document["environment"]["threads"] >= 1


def test_nan_becomes_null(document):
    assert document["models"][0]["accuracy"]["program"]["AP50"] is None
    json.dumps(document, allow_nan=False)


def test_rows(document):
    name = MODEL["name"]
    assert rows(document) == [
        [name, "float", "61.2", "90.0", "0.980000", None, 2.5, 2.25],
        [name, "fake-quantized", None, None, None, 0.93, None, None],
        [name, "compiled program", "60.0", None, "0 differ", 1.0, 1.25, 1.0],
        [name, "onnxruntime INT8", None, None, None, None, 2.0, 1.75],
    ]


def test_the_terminal_table_fits_80_columns(document):
    text = terminal_table(document)
    assert max(map(len, text.splitlines())) <= 80
    assert text.count(MODEL["name"]) == 1
    assert "0 differ" in text


@pytest.mark.parametrize("correlation", [1e300, -1e300])
def test_impossible_figures_wrap(document, correlation):
    document["models"][0]["agreement"]["float"]["correlation"] = correlation
    document["models"][0]["files"]["program"]["bytes"] = 2**62
    lines = terminal_table(check_report(document)).splitlines()
    assert max(map(len, lines)) <= 80 and len(lines) > 7


def test_pages_tell_what_lowering_proved(document):
    page = report_page(document)
    for text in (markdown_page(page), html_page(page)):
        assert "10 of 10 requantized channels have proven constants" in text
        assert "integers of 4 of these channels are exact" in text and "at most 0.25 quantizer steps" in text
        assert "codes of 1 of 3 requantizations are proven" in text
        assert MODEL["preprocessing"] in text


def test_round_trip(document, tmp_path):
    paths = write_report(tmp_path, document)
    assert [path.name for path in paths] == ["report.json", "report.md", "report.html"]
    assert read_report(paths[0]) == document
    assert paths[2].read_text() == html_page(report_page(document))
    assert paths[1].read_text() == markdown_page(report_page(document))
    assert sorted(tmp_path.iterdir()) == sorted(paths)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 1}, "another schema"),
        ({"models": "none"}, "valid models"),
        ({"models": [{}]}, r"models\[0\].name"),
        (
            {"models": [{**MODEL, "accuracy": {}, "summary": SUMMARY, "agreement": {"magic": {}}}]},
            "agreement.magic",
        ),
        ({"environment": None}, "valid environment"),
    ],
)
def test_what_is_no_report_is_refused(change, message, document):
    with pytest.raises(AqdError, match=message):
        check_report({**document, **change})


def test_unreadable_reports_are_refused(tmp_path):
    path = tmp_path / "report.json"
    with pytest.raises(AqdError, match="no such report"):
        read_report(path)
    path.write_text("[]")
    with pytest.raises(AqdError, match=r"is not a report; got a list in .*report\.json"):
        read_report(path)
