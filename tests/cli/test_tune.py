"""`aqd-deploy tune`: keeps its budget, goes on after a kill, and what it finds changes no integer."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import numpy as np
import onnx
import pytest
from card_emulation import SourceCompiler

from aqd_deploy.cli.main import invoke
from aqd_deploy.records.file import read_records
from aqd_deploy.runtime.program import Program
from aqd_deploy.targets import cards, get


def run(capsys, *arguments):
    """The JSON document of a call that works."""
    capsys.readouterr()
    assert invoke([str(argument) for argument in arguments] + ["--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_dry_run_lists_tasks_and_writes_nothing(capsys, integer_file, tmp_path):
    records = tmp_path / "records"
    document = run(capsys, "tune", integer_file, "--dry-run", "--records", records)
    assert not records.exists()
    tasks = document["tasks"]
    assert sum(task["share"] for task in tasks) == pytest.approx(1, abs=0.01)
    assert all(task["space"] >= 1 and task["layers"] and task["measured"] == 0 for task in tasks)
    assert len({task["task"] for task in tasks}) == len(tasks)


@pytest.fixture
def board(tmp_path, monkeypatch):
    """The name of a profile whose device nobody can open."""
    folder = tmp_path / "profiles"
    folder.mkdir()
    text = f'extends = "{get("host").profile}"\ndescription = "x"\ndevice = "ssh:"\n'
    (folder / "board.toml").write_text(text)
    monkeypatch.setenv("AQD_DEPLOY_TARGETS", str(folder))
    return "board"


@pytest.mark.parametrize("option", [[], ["--device", "local"]], ids=["profile", "local"])
def test_a_dry_run_opens_no_device(option, capsys, integer_file, tmp_path, board):
    command = ("tune", integer_file, "--dry-run", "--records", tmp_path / "records", "--target", board)
    assert run(capsys, *command, *option)["tasks"]


@pytest.mark.parametrize("device", ["foo", "ssh:", "qemu", "rpc:nobody"])
def test_a_device_on_which_nothing_is_tuned(fails, integer_file, device):
    said = fails("tune", integer_file, "--device", device)
    assert said.endswith(f"got '{device}'; valid: local, rpc:HOST:PORT/KEY")


def test_a_budget_too_small_for_one_measurement(fails, integer_file, tmp_path):
    said = fails("tune", integer_file, "--budget", "0s", "--records", tmp_path / "records")
    assert "too small for one measurement" in said


def test_no_duration(integer_file, tmp_path):
    assert invoke(["tune", str(integer_file), "--budget", "soon"]) == 2


def test_a_target_that_this_machine_cannot_run(fails, integer_file, tmp_path, monkeypatch):
    host = get("host")
    mine = f'description = "none"\nextends = "{host.profile}"\nfeatures = ["no_cpu_has_this"]\n'
    (tmp_path / "mine.toml").write_text(mine)
    monkeypatch.setenv("AQD_DEPLOY_TARGETS", str(tmp_path))
    foreign = "raspberrypi-4" if host.architecture != "aarch64" else "x86-64-v2"
    for name, lacking in (("mine", "no_cpu_has_this"), (foreign, "architecture")):
        said = fails("tune", integer_file, "--target", name, "--budget", "1s", "--records", tmp_path / "t")
        assert "cannot run" in said and f"{name}, which needs {lacking}" in said


CARD = ("--target", "cuda-sm80")


def test_the_tasks_of_a_card_have_dozens_of_choices(capsys, integer_file, tmp_path):
    document = run(capsys, "tune", integer_file, *CARD, "--images", "2", "--dry-run", "--records", tmp_path)
    assert document["images"] == 2 and document["header"]["isa"] == "sm_80"
    assert all(1 < task["space"] < 100 and task["measured"] == 0 for task in document["tasks"])
    assert sum(task["share"] for task in document["tasks"]) == pytest.approx(1, abs=0.01)
    assert invoke(["tune", str(integer_file), *CARD, "--dry-run"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_candidates_for_a_card_are_compiled_without_one(capsys, integer_file, tmp_path, monkeypatch):
    """The compiler is not asked for: `tests/tuning/test_card_tuning.py` runs what it would compile."""
    from aqd_deploy.tuning import card_tune

    monkeypatch.setattr(card_tune, "find_cuda_compiler", SourceCompiler)
    batch = tmp_path / "c.batch"
    words = ("tune", integer_file, *CARD, "--batch", batch, "--records", tmp_path / "r")
    document = run(capsys, *words)
    assert document["programs"] == max(task["space"] for task in document["tasks"])
    assert document["bytes"] == batch.stat().st_size
    assert [path.name for path in tmp_path.iterdir() if path.is_file() and path != integer_file] == [
        "c.batch"
    ]


def test_what_a_card_asks_for_is_told_in_a_sentence(fails, integer_file, tmp_path, monkeypatch):
    monkeypatch.setattr("aqd_deploy.targets.cards.LIBRARY", "libnothing.so.1")
    monkeypatch.setattr("aqd_deploy.targets.cards.driver", cards.driver.__wrapped__)
    records = ("--records", tmp_path / "r")
    said = fails("tune", integer_file, *CARD, *records)
    assert "no driver for NVIDIA's cards" in said and "--batch FILE" in said
    said = fails("tune", integer_file, *CARD, *records, "--device", "local")
    assert said.endswith("got 'local'; valid: cuda[:N], or --batch FILE, to measure them on another machine")
    (tmp_path / "c.zip").write_bytes(b"PK\5\6" + bytes(18))
    said = fails("tune", tmp_path / "c.zip", *records)
    assert "no driver" in said
    assert invoke(["tune", str(tmp_path / "c.zip"), "--dry-run"]) == 2
    said = fails("tune", integer_file, *CARD, *records, "--batch", integer_file)
    assert "the output is also an input" in said
    alone = [[*CARD, "--batch", "x", more] for more in ("--dry-run", "--device=cuda")]
    of_cpus = [[*CARD, more] for more in ("--replay=ab", "--threads=1")]
    for words in (["--batch", "x"], ["--images", "4"], *of_cpus, *alone):
        assert invoke(["tune", str(integer_file), *words]) == 2
    assert not (tmp_path / "r").exists()


def tune_until(model, records, count):
    """Tune in another process, and kill it when the file has `count` measurements; returns what it holds."""
    starter = "from aqd_deploy.cli.main import main; main()"
    options = ["--budget", "1h", "--threads", "1", "--records", str(records)]
    process = subprocess.Popen([sys.executable, "-c", starter, "tune", str(model), *options])
    path = records / "records.jsonl"
    while not (path.exists() and path.read_text().count('"state"') >= count):
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    return read_records(path)


@pytest.mark.e2e
def test_killed_and_resumed_then_compiled(capsys, integer_file, tmp_path):
    records = tmp_path / "records"
    killed = tune_until(integer_file, records, 3)
    resumed = tune_until(integer_file, records, len(killed.candidates) + 4)
    assert resumed.candidates[: len(killed.candidates)] == killed.candidates
    tried = [(record.task, record.choice) for record in resumed.candidates]
    assert len(set(tried)) == len(tried)

    tuned, plain = tmp_path / "tuned.so", tmp_path / "plain.so"
    made = run(capsys, "compile", integer_file, "--threads", 1, "-o", tuned, "--tuned", records)
    run(capsys, "compile", integer_file, "--threads", 1, "-o", plain, "--tuned", "none")
    summary = made["program"]["tuning"]
    assert summary["task"] >= 1 and summary["notes"] == []
    layers = [layer for layer in made["program"]["layers"] if layer["tuned"] == "task"]
    assert len(layers) == summary["task"] and all(layer["choice"]["family"] for layer in layers)
    programs = [Program.load(program) for program in (tuned, plain)]
    inputs = programs[0].random_inputs()
    first, second = (program.run(inputs) for program in programs)
    assert all(np.array_equal(first[name], second[name]) for name in first)

    task = next(iter(resumed.best()))
    options = ["--threads", 1, "--records", records]
    again = run(capsys, "tune", integer_file, *options, "--replay", task[:8])
    assert again["task"] == task and again["ms"] > 0 and again["differing_integers"] == 0


def test_stale_choices_and_foreign_records_compile_to_the_same_integers(capsys, integer_file, tmp_path):
    dry = run(capsys, "tune", integer_file, "--dry-run", "--threads", 1, "--records", tmp_path / "none")
    stale = {"choice": {"family": "blocked", "rows": 12345}, "state": "accepted", "reason": ""}
    lines = [dry["header"]]
    for task in dry["tasks"]:
        lines.append({"task": task["task"], **stale, "seconds": 1e-3, "best_seconds": None})
    path = tmp_path / "records.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\n")
    made = run(capsys, "compile", integer_file, "--threads", 1, "-o", tmp_path / "m.so", "--tuned", tmp_path)
    summary = made["program"]["tuning"]
    assert summary["task"] == 0 and summary["default"] > 0
    assert "ignored" in summary["notes"][0]
    reference = onnx.load(integer_file)
    from aqd_deploy.integer.reference import ReferenceRunner

    program = Program.load(tmp_path / "m.so")
    inputs = program.random_inputs()
    expected = ReferenceRunner(reference).run(inputs)
    got = program.run(inputs)
    assert all(np.array_equal(expected[name], got[name]) for name in got)
