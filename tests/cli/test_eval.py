"""`eval` on a tiny network with random weights: every form of it in one call, processes, kills, bad input."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from kills import Sandbox
from PIL import Image

from aqd_deploy.cli.main import invoke
from aqd_deploy.integer.manifest import MANIFEST_KEY, read_manifest

SIDE, COUNT = 64, 12


@pytest.fixture(scope="session")
def files(tmp_path_factory, qdq, integer) -> Path:
    """A folder with QDQ file, integer file and program, images and their COCO labels, drawn by chance."""
    from aqd_deploy.compiler import compile_model

    folder = tmp_path_factory.mktemp("eval")
    forms = {"m.qdq.onnx": qdq, "m.int.onnx": integer}
    for name, model in forms.items():
        forms[name] = with_manifest(model, lambda entry: entry["detector"].update(score_threshold=0.001))
        onnx.save(forms[name], folder / name)
    compile_model(forms["m.int.onnx"], folder / "m.so", threads=1)
    numbers = np.random.default_rng(3)
    images, records = [], []
    for index in range(COUNT):
        path = folder / "images" / f"{index:02}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(numbers.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(path)
        images.append({"id": index, "file_name": path.name, "width": SIDE, "height": SIDE})
        records.append({"id": index + 1, "image_id": index, "category_id": index % 3, "bbox": [8, 8, 32, 32]})
    classes = read_manifest(qdq)["detector"]["classes"]
    names = [{"id": index, "name": name} for index, name in enumerate(classes)]
    document = {"images": images, "annotations": records, "categories": names}
    (folder / "annotations.json").write_text(json.dumps(document))
    return folder


def with_manifest(model: onnx.ModelProto, change: Callable[[dict], object]) -> onnx.ModelProto:
    """A copy of the model whose manifest is changed."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    manifest = read_manifest(copy)
    change(manifest)
    next(entry for entry in copy.metadata_props if entry.key == MANIFEST_KEY).value = json.dumps(manifest)
    return copy


def words(files: Path, *stages: str, run: Path) -> list[str]:
    return [
        "eval", *(str(files / stage) for stage in stages), "--annotations", str(files / "annotations.json"),
        "--images", str(files / "images"), "-o", str(run),
    ]  # fmt: skip


def without_times(document: dict) -> dict:
    document = json.loads(json.dumps(document))
    del document["created"]
    document.pop("command", None)
    document.pop("environment")
    for model in document["models"]:
        del model["seconds"], model["steps"]
    return document


def boxes(run: Path, stage: str) -> list:
    document = json.loads((run / "results" / f"{stage}.json").read_text())
    return [(each["file"], each["boxes"]) for each in document["images"]]


def test_layers_beside_accuracy(files, tmp_path, capsys):
    call = words(files, "m.qdq.onnx", "m.int.onnx", "m.so", run=tmp_path / "run")
    assert invoke([*call, "--limit", "3", "--layers", "--json"]) == 0
    (model,) = json.loads(capsys.readouterr().out)["models"]
    compared = [row["program"] for row in model["layers"] if row["program"] is not None]
    assert compared and all(each["differing"] == 0 for each in compared)
    assert set(model["numerics"]) == {"exact", "paper", "power-of-two"}
    assert model["numerics"]["exact"]["accuracy"] is not None
    assert model["latency"]["measured"] and model["cost"]["macs_by_bits"]
    assert invoke([*words(files, "m.int.onnx", "m.so", run=tmp_path / "two"), "--layers"]) == 1
    assert "--layers compares a QDQ file, its integer file and its program" in capsys.readouterr().err


def test_every_form_in_one_call(files, tmp_path, capsys):
    run = tmp_path / "run"
    call = words(files, "m.qdq.onnx", "m.int.onnx", "m.so", run=run)
    assert invoke([*call, "--gate", "drop<=1", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document == json.loads((run / "report.json").read_text())
    accuracy = document["models"][0]["accuracy"]
    assert list(accuracy) == ["fake_quantized", "integer_reference", "program"]
    assert len(boxes(run, "program")) == COUNT and any(found for _, found in boxes(run, "program"))
    assert boxes(run, "program") == boxes(run, "integer_reference")
    assert accuracy["program"] == accuracy["integer_reference"]
    # What is printed for people, by a run that knows all; and a gate that nobody meets.
    assert invoke([*call, "--gate", "ap>0.99"]) == 3
    out, err = capsys.readouterr()
    assert all(len(line) <= 80 for line in out.splitlines() if str(run) not in line)
    assert "compiled program" in out and "gate ap>0.99: program" in out and str(run / "report.json") in out
    assert "program: 12 of 12 images are known from an earlier run" in err
    assert "error: 1 of 1 gates failed" in err


def test_a_name_for_what_the_kind_does_not_tell(files, tmp_path, capsys):
    call = words(files, "m.int.onnx", run=tmp_path / "run")
    call.insert(1, f"onnxruntime_int8={files / 'm.qdq.onnx'}")
    assert invoke([*call, "--limit", "2", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["models"][0]["accuracy"]) == [
        "onnxruntime_int8", "integer_reference",
    ]  # fmt: skip


@pytest.mark.e2e
def test_processes_and_a_kill_give_the_same(files, tmp_path):
    """A run by two processes that is killed when it has kept something, and then goes on in one."""
    whole, sandbox = tmp_path / "whole", Sandbox(tmp_path / "sandbox")
    assert invoke(words(files, "m.int.onnx", "m.so", run=whole)) == 0
    run = sandbox.work / "run"
    process = sandbox.verb(*words(files, "m.int.onnx", "m.so", run=run), "--processes", 2)
    there = run / "results" / "integer_reference.json"
    sandbox.wait_for(lambda: there.exists() or process.poll() is not None, 200, "a stage")
    told = sandbox.kill(process, signal.SIGKILL)
    assert there.exists(), told
    assert invoke(words(files, "m.int.onnx", "m.so", run=run)) == 0
    for stage in ("integer_reference", "program"):
        assert boxes(run, stage) == boxes(whole, stage)
    documents = [json.loads((each / "report.json").read_text()) for each in (whole, run)]
    assert without_times(documents[0]) == without_times(documents[1])
    assert sandbox.left() == []


def test_bad_input(files, fails, tmp_path):
    run = tmp_path / "run"
    call = words(files, "m.int.onnx", run=run)
    assert "this is not a gate; got 'ap'" in fails(*call, "--gate", "ap")
    assert "no such annotations file" in fails(*call, "--annotations", tmp_path / "none.json")
    assert "the images are not a folder" in fails(*call, "--images", files / "annotations.json")
    assert "two files are the stage integer_reference" in fails(*call[:2], *call[1:])
    document = json.loads((files / "annotations.json").read_text())
    document["categories"].append({"id": 77, "name": "cow"})
    (tmp_path / "more.json").write_text(json.dumps(document))
    assert "1 of 4 categories" in fails(*call, "--annotations", tmp_path / "more.json")
    assert "no such ONNX file" in fails(*words(files, "none.onnx", run=run))
    assert "unknown device; got 'moon'" in fails(*words(files, "m.so", run=run), "--device", "moon")
    assert "a device runs compiled programs; got qemu" in fails(*call, "--device", "qemu")
    bare = with_manifest(onnx.load(files / "m.int.onnx"), lambda entry: entry.pop("detector"))
    onnx.save(bare, tmp_path / "bare.int.onnx")
    assert "--detector F.toml" in fails("eval", tmp_path / "bare.int.onnx", *call[2:])


@pytest.mark.matrix
def test_a_farm_of_two_boards_one_of_which_dies(files, tmp_path):
    """The same boxes as here, by both boards; and by the one that is left."""
    pytest.importorskip("tornado")
    from rpc_farm import rpc_farm

    sandbox = Sandbox(tmp_path / "sandbox")
    assert invoke(words(files, "m.so", run=tmp_path / "here")) == 0
    with rpc_farm(tmp_path, 2) as farm:
        asked = ["--device", farm.tracker.text, "--processes", "2"]
        assert invoke([*words(files, "m.so", run=tmp_path / "both"), *asked]) == 0
        assert boxes(tmp_path / "both", "program") == boxes(tmp_path / "here", "program")
        assert [farm.sessions(board) for board in (0, 1)] == [1, 1]
        run = sandbox.work / "run"
        process = sandbox.verb(*words(files, "m.so", run=run), *asked)
        sandbox.wait_for(lambda: farm.sessions(1) == 2 or process.poll() is not None, 200, "a session")
        farm.kill(1)
        assert process.wait(200) == 0
    assert boxes(run, "program") == boxes(tmp_path / "here", "program")
