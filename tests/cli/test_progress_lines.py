"""What a person sees who waits: stages and a status at a terminal, elsewhere a line now and then."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import onnx
import pytest

from aqd_deploy.cli.main import invoke
from aqd_deploy.cli.output import StatusLine
from aqd_deploy.cli.tune import _Display
from aqd_deploy.passes.pipeline import PASSES
from aqd_deploy.tuning.describe import tasks_text, tuned_text


@pytest.fixture
def terminal(monkeypatch, capsys):
    """stderr is a terminal of 60 columns."""
    monkeypatch.setattr(type(sys.stderr), "isatty", lambda _: True)
    monkeypatch.setenv("COLUMNS", "60")
    return capsys


def now(elapsed):
    return SimpleNamespace(
        elapsed=elapsed, budget=600.0, measured=7, started=3, tasks=9, seconds=None, default_seconds=None,
        task=SimpleNamespace(use=SimpleNamespace(task="3x3 256->256 on 100x152 and 4 more")),
    )  # fmt: skip


def test_a_run_without_a_terminal_tells_a_line_now_and_then(capsys):
    with StatusLine() as line:
        show = _Display(line)
        for tenths in range(0, 1200):
            show(now(tenths / 10))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 12
    assert lines[:2] == [
        f"{clock} of 10:00  7 measured  defaults of 3 of 9 tasks  3x3 256->256 on 100x152 and 4 more"
        for clock in ("0:00", "0:10")
    ]


def test_a_terminal_has_one_line_that_fits_and_goes(terminal):
    with StatusLine() as line:
        show = _Display(line)
        for seconds in range(30):
            show(now(seconds))
    said = terminal.readouterr().err
    assert "\n" not in said
    parts = said.split("\r")
    assert all(len(part) < 60 for part in parts)
    assert parts[-1] == "" and not parts[-2].strip() and parts[-3].startswith("0:29 of 10:00")


def test_compile_tells_its_stages_at_a_terminal(integer_file, tmp_path, terminal):
    words = ["compile", str(integer_file), "-o", str(tmp_path / "m.so"), "--target", "x86-64-v2"]
    assert invoke(words) == 0
    said = terminal.readouterr().err
    assert said.index("choosing and writing the kernels") < said.index("generating machine code")
    assert "linking" in said


def test_compile_tells_no_stages_elsewhere(integer_file, tmp_path, capsys):
    words = ["compile", str(integer_file), "-o", str(tmp_path / "m.so"), "--target", "x86-64-v2"]
    assert invoke(words) == 0
    said = capsys.readouterr().err
    assert "\r" not in said and "generating" not in said


def test_lower_tells_its_passes_at_a_terminal(qdq_copy, tmp_path, terminal):
    onnx.save(qdq_copy, tmp_path / "m.qdq.onnx")
    words = ["lower", str(tmp_path / "m.qdq.onnx"), "-o", str(tmp_path / "m.int.onnx")]
    assert invoke(words) == 0
    parts = [part.strip() for part in terminal.readouterr().err.split("\r")]
    told = [part for part in parts if part]
    assert told == [f"pass {n} of {len(PASSES)}: {each.name}" for n, each in enumerate(PASSES, 1)]
    assert parts[-1] == "" and all(len(part) < 60 for part in parts)


def test_lower_tells_no_passes_elsewhere(qdq_copy, tmp_path, capsys):
    onnx.save(qdq_copy, tmp_path / "m.qdq.onnx")
    words = ["lower", str(tmp_path / "m.qdq.onnx"), "-o", str(tmp_path / "m.int.onnx")]
    assert invoke(words) == 0
    assert capsys.readouterr().err == ""


def test_records_of_another_cpu_are_no_fault(integer_file, tmp_path, capsys, monkeypatch):
    """Where none ship for this CPU, which is the usual case."""
    from aqd_deploy.records.lookup import Tuned
    from aqd_deploy.targets import get

    note = "cascadelake-vnni.jsonl: ignored: of another CPU, Xeon (GenuineIntel-6-85), not GenuineIntel-6-1"
    tuned = Tuned("shipped", [note, "damage"], of_other_cpus=[note])
    monkeypatch.setattr("aqd_deploy.records.lookup._shipped", lambda _: tuned)
    words = ["compile", str(integer_file), "-o", str(tmp_path / "m.so"), "--target", get("host").profile]
    assert invoke(words) == 0
    said = capsys.readouterr().err
    assert "ignored" not in said and "damage" in said
    assert "no measurements of this CPU come with aqd-deploy" in said


def test_tables_of_tuning_have_a_line_a_task():
    tasks = [
        {
            "task": f"{index:02}345678abcdef01", "convolution": convolution, "layers": ["layer"] * 12,
            "share": 0.123, "space": 12345, "measured": 1234, "default_ms": 123.456, "best_ms": 98.7654,
            "choice": "winograd(blocks=1 form=3 parts=4 pixels_first=1 rows=5 strips=1)",
        }
        for index, convolution in enumerate(
            ["3x3 256->256 on 100x152 and 4 more", "7x7 3->64 on 400x608 stride 2"]
        )
    ]  # fmt: skip
    document = {"tasks": tasks, "share_of": "multiply-accumulates", "default_ms": 1.0, "best_ms": 1.0,
                "measured": 3, "elapsed_seconds": 9, "records": "tuning/records.jsonl"}  # fmt: skip
    for text in (tasks_text(document), tuned_text(document)):
        lines = text.splitlines()
        assert max(map(len, lines)) <= 80
        assert [line[:8] for line in lines[2:4]] == ["00345678", "01345678"]
        assert all(task["convolution"] in text for task in tasks)
