"""`report`: pages of a run beside it or elsewhere, two runs, and what is no run."""

from __future__ import annotations

import json

import pytest
from report_documents import full_report

from aqd_deploy.cli.main import invoke


@pytest.fixture
def run_folder(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "report.json").write_text(json.dumps(full_report()))
    return folder


def words(*parts):
    return ["report", *map(str, parts)]


def test_pages_beside_the_run(run_folder, capsys):
    assert invoke(words(run_folder)) == 0
    html, markdown = (run_folder / name for name in ("report.html", "report.md"))
    assert capsys.readouterr().out.split() == [str(html), str(markdown)]
    assert html.read_text().startswith("<!DOCTYPE html>") and markdown.read_text().startswith("# Report")
    html.unlink()
    assert invoke(words(run_folder, "--json")) == 0, "its own pages are written again"
    assert json.loads(capsys.readouterr().out) == {"files": [str(html), str(markdown)]}


def test_a_page_elsewhere(run_folder, tmp_path, capsys):
    assert invoke(words(run_folder / "report.json", "-o", tmp_path / "pages" / "p.html")) == 0
    assert sorted(path.name for path in (tmp_path / "pages").iterdir()) == ["p.html", "p.md"]
    assert not (run_folder / "report.html").exists()


def test_two_runs(run_folder, tmp_path, capsys):
    other = tmp_path / "other"
    other.mkdir()
    (other / "report.json").write_text(json.dumps(full_report(2)))
    assert invoke(words(run_folder, other, "-o", tmp_path / "two.html")) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80 and "worse" in text and "better" in text
    assert "Two runs of aqd-deploy" in (tmp_path / "two.html").read_text()
    assert invoke(words(run_folder, other, "--json")) == 0
    assert json.loads(capsys.readouterr().out)["models"][0]["name"] == "net_4bit"


def test_what_is_no_run(fails, tmp_path, run_folder):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no such report" in fails("report", empty)
    assert "no such report" in fails("report", tmp_path / "nowhere")
    (empty / "report.json").write_text('{"schema": 2, "kind": "demo"}')
    told = fails("report", empty)
    assert "another schema" in told and "aqd-deploy demo -o DIR" in told
    (empty / "report.json").write_bytes((run_folder / "report.json").read_bytes()[:-100])
    assert "not JSON" in fails("report", empty)
    (empty / "report.json").write_text("")
    assert "the report is empty" in fails("report", empty)
    (empty / "report.json").write_text('{"images": []}')
    told = fails("report", empty)
    assert f"not a report; got an object with images in {empty / 'report.json'}" in told
    assert "compared with itself" in fails("report", run_folder, run_folder)
    assert "ends in .html" in fails("report", run_folder, "-o", tmp_path / "page.pdf")
    assert sorted(path.name for path in empty.iterdir()) == ["report.json"]


def test_a_page_of_somebody_else_stays(fails, run_folder):
    (run_folder / "report.md").write_text("mine")
    assert "not known to be written by demo" in fails("report", run_folder)
    assert (run_folder / "report.md").read_text() == "mine" and not (run_folder / "report.html").exists()
