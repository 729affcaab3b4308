"""Two runs: what is better and worse, what noise hides, and what cannot be compared and why."""

from __future__ import annotations

import copy
import json

import pytest
from report_documents import full_report

from aqd_deploy.reporting.page.comparison_page import FORMATS
from aqd_deploy.reporting.run_comparison import UNITS, VERDICTS, compare_runs
from aqd_deploy.reporting.run_comparison_view import comparison_text


def changed(change):
    """A report, and the same after `change`."""
    first = full_report()
    second = copy.deepcopy(first)
    change(second)
    return {"first": first, "second": second}


def row(document, what, of):
    [found] = [row for row in document["models"][0]["rows"] if (row["what"], row["of"]) == (what, of)]
    return found


def program(report):
    return report["models"][0]["accuracy"]["program"]


def ours(report):
    return report["models"][0]["latency"]["measured"][0]["contenders"]["aqd-deploy"]


def test_the_same_run_twice():
    document = compare_runs(changed(lambda report: None))
    assert {row["verdict"] for row in document["models"][0]["rows"]} == {"same"}
    assert document["differs"] == document["not_compared"] == []
    assert "nothing changed" in comparison_text(document)


def test_more_ap_is_better_and_more_time_is_worse():
    def change(report):
        program(report)["AP"] += 0.01
        ours(report)["spread"] = 0.05
        ours(report)["median_ms"] *= 1.2

    document = compare_runs(changed(change))
    better = row(document, "AP", "compiled program")
    assert (better["verdict"], better["change"]) == ("better", 0.01)
    # The first run's rounds differ by more than 20 %.
    assert row(document, "median", "aqd-deploy, 37 threads")["verdict"] == "within noise"
    assert (
        "better" in comparison_text(document) and max(map(len, comparison_text(document).splitlines())) <= 80
    )


@pytest.mark.parametrize(("factor", "verdict"), [(1.2, "worse"), (1.03, "within noise"), (0.8, "better")])
def test_time_beyond_noise(factor, verdict):
    runs = changed(lambda report: None)
    ours(runs["first"])["spread"] = ours(runs["second"])["spread"] = 0.05
    ours(runs["second"])["median_ms"] *= factor
    found = row(compare_runs(runs), "median", "aqd-deploy, 37 threads")
    assert found["verdict"] == verdict and found["share"] == pytest.approx(factor - 1, abs=1e-6)


def test_other_images_and_another_machine():
    def change(report):
        report["images"]["annotations"]["sha256"] = "ee" * 32
        report["environment"]["cpu"] = "Another CPU"

    document = compare_runs(changed(change))
    assert {entry["what"] for entry in document["not_compared"]} == {
        "accuracy",
        "agreement",
        "latency",
        "other engines",
        "memory",
    }
    assert {row["group"] for row in document["models"][0]["rows"]} == {"size", "lowering", "cost"}
    assert {"CPU", "images"} <= {entry["what"] for entry in document["differs"]}
    text = comparison_text(document)
    assert "other images" in text and "another machine" in text


def test_images_without_labels_are_told_by_folder_and_count():
    def change(report):
        report["images"] = {"folder": "elsewhere", "count": 2417}

    document = compare_runs(changed(change))
    assert {entry["what"] for entry in document["not_compared"]} == {"accuracy", "agreement"}


def test_networks_that_only_one_run_has():
    first = full_report()
    other = {**copy.deepcopy(first["models"][0]), "name": "other"}
    document = compare_runs({"a": first, "b": full_report(models=[*copy.deepcopy(first["models"]), other])})
    assert [model["name"] for model in document["models"]] == ["net_4bit"]
    assert document["not_compared"] == [{"what": "other", "why": "only the second run has it"}]


def test_the_only_two_networks_are_compared():
    document = compare_runs(changed(lambda report: report["models"][0].update(name="net_2bit")))
    assert [model["name"] for model in document["models"]] == ["net_4bit and net_2bit"]


def test_integers_that_differ_from_none():
    def change(report):
        report["models"][0]["agreement"]["program"]["differing"] = 5

    found = row(compare_runs(changed(change)), "integers that differ", "compiled program")
    assert (found["verdict"], found["share"], found["change"]) == ("worse", None, 5)


def test_what_nobody_can_measure_is_left_out():
    runs = changed(lambda report: ours(report).update(median_ms=1.7e308, min_ms=5e-324))
    ours(runs["first"]).update(median_ms=-1.7e308, min_ms=5e-324)
    document = compare_runs(runs)
    assert row(document, "fastest run", "aqd-deploy, 37 threads")["share"] is None
    assert "median" not in {row["what"] for row in document["models"][0]["rows"] if "aqd" in row["of"]}
    json.dumps(document, allow_nan=False)


def test_words_and_units_are_known():
    document = compare_runs({"a": full_report(1), "b": full_report(2)})
    rows = document["models"][0]["rows"]
    assert {row["verdict"] for row in rows} <= set(VERDICTS)
    assert {row["unit"] for row in rows} <= set(UNITS) == set(FORMATS)
    json.dumps(document, allow_nan=False)
