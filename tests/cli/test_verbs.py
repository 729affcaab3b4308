"""The verbs on a small network: files, documents and exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from aqd_deploy.cli.main import invoke
from aqd_deploy.detection.textures import textures
from aqd_deploy.runtime import read_manifest
from aqd_deploy.targets.cpu import available_threads


@pytest.fixture
def call(capsys):
    """Call the command line: exit code and the JSON document on stdout."""

    def run(*arguments: object, code: int = 0) -> dict:
        assert invoke([*(str(argument) for argument in arguments), "--json"]) == code
        return json.loads(capsys.readouterr().out)

    return run


@pytest.fixture(scope="session")
def folder(tmp_path_factory, qdq) -> Path:
    """A folder with the QDQ file, its integer file and a program, all made by the command line."""
    path = tmp_path_factory.mktemp("model")
    onnx.save(qdq, path / "m.qdq.onnx")
    assert invoke(["lower", str(path / "m.qdq.onnx"), "-o", str(path / "m.int.onnx")]) == 0
    assert invoke(["compile", str(path / "m.qdq.onnx"), "-o", str(path / "m.so"), "--threads", "1"]) == 0
    np.savez(path / "x.npz", image=textures(1, 64, 64, 5))
    return path


def test_export_of_an_architecture(call, tmp_path):
    pytest.importorskip("torch")
    out = tmp_path / "m.qdq.onnx"
    options = ("--bits", "2", "--image-size", "32x64", "--classes", "3", "--width", "0.125")
    summary = call("export", "fcos_r18", "-o", out, *options)
    assert (summary["file"], summary["bytes"]) == (str(out), out.stat().st_size)
    shape = [d.dim_value for d in onnx.load(out).graph.input[0].type.tensor_type.shape.dim]
    assert shape == [1, 3, 32, 64]


def test_export_of_a_checkpoint(call, tmp_path):
    pytest.importorskip("torch")
    from aqd_deploy.frontends.random_network import random_detector
    from aqd_deploy.qat.checkpoint import save_checkpoint
    from aqd_deploy.qat.config import parse_architecture

    config = parse_architecture(
        "retinanet_r18",
        bits=3,
        width=0.125,
        fpn_channels=16,
        head_depth=1,
        classes=2,
        image_height=64,
        image_width=64,
    )
    save_checkpoint(tmp_path / "m.pt", random_detector(config))
    assert call("export", tmp_path / "m.pt", "-o", tmp_path / "m.qdq.onnx")["name"] == "retinanet_r18_3bit"
    assert call("inspect", tmp_path / "m.pt")["config"]["bits"] == 3


def test_lower_states_every_proof_and_bound(call, folder, tmp_path):
    report = call("lower", folder / "m.qdq.onnx", "-o", tmp_path / "i.onnx")
    assert sum(entry["channels"] for entry in report["requantizations"]) == report["requantized_channels"] > 0
    assert all({"proven", "deviations"} <= set(entry) for entry in report["requantizations"])
    assert report["proven_share"] >= 0.99
    assert len(report["skip_adds"]) == 10
    assert all(entry["error_bound"] >= 0 for entry in report["skip_adds"])


def test_lower_explains_on_stdout(folder, tmp_path, capsys):
    assert invoke(["lower", str(folder / "m.qdq.onnx"), "-o", str(tmp_path / "i.onnx"), "--explain"]) == 0
    out = capsys.readouterr().out
    assert "solve_requantize:" in out
    assert "proven in all" in out
    assert len(out.splitlines()) <= 52


@pytest.mark.parametrize("numerics", ["exact", "paper"])
def test_lower_and_inspect_say_what_is_proven_of_what(numerics, folder, tmp_path, capsys):
    out = tmp_path / "i.onnx"
    assert invoke(["lower", str(folder / "m.qdq.onnx"), "-o", str(out), "--numerics", numerics]) == 0
    told = capsys.readouterr().out
    assert invoke(["inspect", str(out)]) == 0
    shown = capsys.readouterr().out
    assert f"({numerics} numerics)" in told and "proven exact" not in told
    for words in ("have proven constants", "quantizer steps", "end to end, the codes of 0 of"):
        assert words in told and words in shown
    assert invoke(["inspect", str(folder / "m.so")]) == 0
    assert "end to end, the codes of" in capsys.readouterr().out


@pytest.mark.parametrize("numerics", ["paper", "power-of-two"])
def test_lower_numerics(numerics, call, folder, tmp_path):
    assert (
        call("lower", folder / "m.qdq.onnx", "-o", tmp_path / "i.onnx", "--numerics", numerics)["numerics"]
        == numerics
    )


def test_program_and_reference_agree(call, folder, tmp_path):
    document = call(
        "run",
        folder / "m.so",
        "--input",
        folder / "x.npz",
        "-o",
        tmp_path / "y.npz",
        "--check",
        folder / "m.int.onnx",
    )
    assert document["check"]["differing"] == 0
    assert document["check"]["count"] == sum(np.prod(e["shape"]) for e in document["outputs"].values())
    call("run", folder / "m.int.onnx", "--input", folder / "x.npz", "-o", tmp_path / "z.npz")
    with np.load(tmp_path / "y.npz") as ours, np.load(tmp_path / "z.npz") as reference:
        assert set(ours.files) == set(reference.files) == set(document["outputs"])
        for name in ours.files:
            assert ours[name].dtype == reference[name].dtype == np.int32
            np.testing.assert_array_equal(ours[name], reference[name])


def test_check_counts_differences_and_exits_with_3(call, folder, tmp_path, capsys):
    model = onnx.load(folder / "m.int.onnx")
    name = next(node.input[1] for node in reversed(model.graph.node) if node.op_type == "ConvOdd")
    tensor = next(t for t in model.graph.initializer if t.name == name)
    weight = onnx.numpy_helper.to_array(tensor).copy()
    weight[0] = np.where(weight[0] < 0, 127, -128)
    tensor.CopyFrom(onnx.numpy_helper.from_array(weight, name))
    onnx.save(model, tmp_path / "other.int.onnx")
    arguments = ("run", folder / "m.so", "--input", folder / "x.npz", "--check", tmp_path / "other.int.onnx")
    document = call(*arguments, code=3)
    assert 0 < document["check"]["differing"] < document["check"]["count"]


def test_inspect(call, folder):
    assert call("inspect", folder / "m.qdq.onnx")["kind"] == "qdq"
    integer = call("inspect", folder / "m.int.onnx")
    assert (integer["kind"], integer["float_tensors"]["count"]) == ("integer", 0)
    assert integer["ranges"]
    program = call("inspect", folder / "m.so")
    assert program["manifest"]["program"]["target"]["name"] == "host"
    assert program["weights"]["by_bits"]["4"]["bytes_per_weight"] <= 0.55
    assert program["weights"]["count"] == integer["weights"]["count"]


@pytest.mark.parametrize("name", ["m.qdq.onnx", "m.int.onnx", "m.so"])
def test_inspect_for_people(name, folder, capsys):
    assert invoke(["inspect", str(folder / name)]) == 0
    out = capsys.readouterr().out
    assert ("float tensors inside  0" in out) == (name == "m.int.onnx")
    assert len(out.splitlines()) <= 45


def test_detect_on_files_and_folders(call, folder, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    pixels = textures(2, 80, 120, 1)
    for index, name in enumerate(("000000000139.png", "named.png")):
        Image.fromarray(pixels[index].transpose(1, 2, 0)).save(images / name)
    options = ("-o", tmp_path / "out", "--score-threshold", "0")
    document = call("detect", folder / "m.so", images, *options)
    assert [entry["image_id"] for entry in document["images"]] == [139, 140]
    drawings = [tmp_path / "out" / name for name in ("000000000139.png", "named.png")]
    assert [Path(entry["drawing"]) for entry in document["images"]] == drawings
    assert all(path.is_file() for path in drawings) and document["failed"] == []
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    keys = {"image_id", "category_id", "bbox", "score", "file_name", "category_name"}
    assert all(set(entry) == keys for entry in results)
    assert {(entry["image_id"], entry["file_name"]) for entry in results} == {
        (number, str(images / path.name)) for number, path in enumerate(drawings, 139)
    }
    by_reference = call(
        "detect", folder / "m.int.onnx", images, "-o", tmp_path / "out2", "--score-threshold", "0"
    )
    assert [e["detections"] for e in by_reference["images"]] == [e["detections"] for e in document["images"]]
    assert json.loads((tmp_path / "out2" / "results.json").read_text()) == results


def test_bench_against_onnxruntime(call, folder):
    document = call("bench", folder / "m.so", "--against", "onnxruntime", "--rounds", "2", "--runs", "1")
    (measured,) = document["measured"]
    assert set(measured["contenders"]) == {"aqd-deploy", "onnxruntime float", "onnxruntime int8"}
    assert set(measured["ratios"]) == {"onnxruntime float", "onnxruntime int8"}
    assert measured["fastest_int8"] == {"onnxruntime": "onnxruntime int8"}
    assert measured["threads"] == 1
    assert document["failed"] == []
    assert all(
        0 < entry["min_ms"] <= entry["median_ms"] <= entry["p90_ms"]
        for entry in measured["contenders"].values()
    )


def test_bench_gate(call, folder):
    call("bench", folder / "m.so", "--rounds", "1", "--runs", "1", "--max-ms", "1e-6", code=3)
    call("bench", folder / "m.so", "--rounds", "1", "--runs", "1", "--max-ms", "1e6")


def test_bench_layers_memory_and_thread_counts(call, folder, tmp_path, capsys):
    keep, program, qdq = tmp_path / "keep", tmp_path / "two.so", folder / "m.qdq.onnx"
    call("compile", qdq, "-o", program, "--threads", "2")
    options = ("--threads", "1,2", "--layers", "--memory", "--model", qdq, "--keep", keep, "--rounds", "1",
               "--runs", "1")  # fmt: skip
    document = call("bench", program, *options)
    layers = read_manifest(program)["program"]["layers"]
    used = sorted({1, min(2, available_threads())})
    assert [entry["threads"] for entry in document["measured"]] == used
    for entry in document["measured"]:
        assert [layer["name"] for layer in entry["layers"]] == [layer["name"] for layer in layers]
        assert all(peak > 0 for peak in entry["peak_gmacs_per_s"].values())
        assert list(entry["read_gb_per_s"]) == ["memory", "L2"] and min(entry["read_gb_per_s"].values()) > 0
        for layer in entry["layers"]:
            assert layer["why"] and (layer["share_of_peak"] is None) == (layer["macs"] == 0)
    asked = [(entry["contender"], entry["threads"]) for entry in document["memory"]]
    assert asked == [(name, count) for count in used for name in ("aqd-deploy", "onnxruntime int8")]
    # An interpreter with numpy takes more than 10 MB; nothing here takes 1 GB.
    assert all(10 < entry["peak_mb"] < 1000 for entry in document["memory"])
    (kept,) = keep.iterdir()
    assert (kept / "float.onnx").exists()
    assert invoke(["bench", str(program), *map(str, options)]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    assert "measured peak" in shown and "peak MB" in shown


def test_bench_ratio_gate(call, folder):
    asked = ("bench", folder / "m.so", "--against", "onnxruntime", "--rounds", "1", "--runs", "1")
    call(*asked, "--max-ratio", "onnxruntime=1e-9", code=3)
    call(*asked, "--max-ratio", "onnxruntime=1e9", "--max-ratio", "onnxruntime float=1e9")


def test_bench_with_an_image(call, folder, tmp_path):
    Image.fromarray(textures(1, 48, 80)[0].transpose(1, 2, 0)).save(tmp_path / "a.png")
    options = ("--image", tmp_path / "a.png", "--against", "onnxruntime", "--rounds", "1", "--runs", "1")
    assert call("bench", folder / "m.so", *options)["input"] == "image"


def test_bench_without_the_qdq_file(folder, tmp_path, capsys):
    program = tmp_path / "alone.so"
    program.write_bytes((folder / "m.so").read_bytes())
    assert invoke(["bench", str(program), "--against", "onnxruntime"]) == 1
    assert "--model" in capsys.readouterr().err


def test_missing_peers_are_listed_with_their_command(call, folder, monkeypatch):
    from aqd_deploy.bench.peers.contract import Peer

    monkeypatch.setattr(Peer, "installed", lambda peer: peer.name != "openvino")
    document = call("bench", folder / "m.so", "--against", "openvino", "--rounds", "1", "--runs", "1")
    assert document["missing"] == [{"peer": "openvino", "next_command": "pip install 'aqd-deploy[peers]'"}]


def test_targets(call):
    names = [entry["name"] for entry in call("targets", "list")]
    assert {"host", "cascadelake", "x86-64-v3"} <= set(names)
    assert call("targets", "show", "x86-64-v3")["cpu"] == "x86-64-v3"


def test_a_cpu_without_own_kernels_gets_the_portable_path_and_is_told(integer_file, tmp_path, capsys):
    command = ["compile", str(integer_file), "-o", str(tmp_path / "m.so"), "--target", "llvm -mcpu=nehalem"]
    assert invoke([*command, "--json"]) == 0
    captured = capsys.readouterr()
    told = captured.err.splitlines()
    assert told[0] == "compiling for llvm -mcpu=nehalem (portable kernels)"
    assert told[1].startswith("the kernels know no instructions of this target: portable arithmetic")
    assert json.loads(captured.out)["program"]["target"]["kernels"] == "portable"


def test_doctor(call):
    document = call("doctor")
    states = {entry["package"]: entry["state"] for entry in document["requirements"] if not entry["extra"]}
    assert states["onnxruntime"] == "ok"
    assert document["kernels"] in ("amx", "vnni", "avx512", "avxvnni", "avx2", "portable")


def test_doctor_fails_where_a_requirement_is_missing(monkeypatch, capsys):
    from aqd_deploy.reporting import diagnosis

    monkeypatch.setattr(diagnosis, "_requirements", lambda: ["onnx>=1.19", "surely-not-installed>=1"])
    assert invoke(["doctor"]) == 1
    assert "surely-not-installed" in capsys.readouterr().err


def test_demo(call, tmp_path):
    pytest.importorskip("torch")
    from aqd_deploy.frontends.random_network import random_detector
    from aqd_deploy.qat.checkpoint import save_checkpoint
    from aqd_deploy.qat.config import parse_architecture

    checkpoints, images = tmp_path / "checkpoints", tmp_path / "images"
    checkpoints.mkdir()
    images.mkdir()
    for bits in (None, 2):
        config = parse_architecture(
            "fcos_r18",
            bits=bits,
            width=0.125,
            fpn_channels=16,
            head_depth=1,
            classes=3,
            image_height=64,
            image_width=64,
        )
        save_checkpoint(checkpoints / f"m_{bits}.pt", random_detector(config), compact=True)
    Image.fromarray(textures(1, 70, 90)[0].transpose(1, 2, 0)).save(images / "a.png")
    document = call(
        "demo", "-o", tmp_path / "out", "--checkpoints", checkpoints, "--images", images, "--threads", "1"
    )
    (model,) = document["models"]
    assert model["name"] == "m_2"
    assert model["agreement"]["program"] == {
        "differing": 0,
        "count": model["agreement"]["program"]["count"],
        "largest": 0,
    }
    assert set(model["agreement"]) == {"float", "integer_reference", "program"}
    assert model["weights"]["by_bits"]["2"]["bytes_per_weight"] <= 0.3
    assert (
        model["layer_agreement"]["program"]["differing"] == 0 < model["layer_agreement"]["program"]["count"]
    )
    assert any(row["kernel"] for row in model["layers"]) and len(model["skip_adds"]) == 10
    # Proven; 2^-20 of a step is float64's, in which the exact value is computed.
    assert all(row["seen_steps"] <= row["bound_steps"] + 2**-20 for row in model["skip_adds"])
    assert set(model["numerics"]) == {"exact", "paper", "power-of-two"}
    assert model["steps"]["images"] == 1 and model["cost"]["peak_mb"] > 0
    assert set(model["cost"]["macs_by_bits"]) == {"2x2", "8x8"}
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"report.json", "report.md", "m_2.qdq.onnx", "m_2.int.onnx", "m_2.so", "m_2_boxes"} <= written
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == document
