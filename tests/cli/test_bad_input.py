"""Bad input: exit code 1, one sentence that says what is wrong, nothing half-written."""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from aqd_deploy.cli.main import invoke
from aqd_deploy.frontends.graph import GraphBuilder
from aqd_deploy.passes.dump import STEMS


def saved(model: onnx.ModelProto, tmp_path: Path) -> Path:
    path = tmp_path / "m.qdq.onnx"
    onnx.save(model, path)
    return path


def replace_initializer(model: onnx.ModelProto, name: str, value: np.ndarray) -> None:
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(value, name))


class TestCheckpoints:
    def test_group_norm(self, fails, tmp_path):
        torch = pytest.importorskip("torch")
        path = tmp_path / "gn.pt"
        torch.save({"head.cls_tower.0.gn.weight": torch.ones(4)}, path)
        assert "GroupNorm" in fails("export", path, "-o", tmp_path / "m.qdq.onnx")

    def test_pickled_code_is_not_run(self, fails, tmp_path):
        torch = pytest.importorskip("torch")
        marker = tmp_path / "executed"

        class Payload:
            def __reduce__(self):
                return os.mkdir, (str(marker),)

        torch.save({"model": Payload()}, tmp_path / "code.pt")
        assert "pickled code" in fails("export", tmp_path / "code.pt", "-o", tmp_path / "m.qdq.onnx")
        assert not marker.exists()

    @pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 half a zip"])
    def test_no_checkpoint(self, content, fails, tmp_path):
        path = tmp_path / "m.pt"
        path.write_bytes(content)
        assert "checkpoint" in fails("export", path, "-o", tmp_path / "m.qdq.onnx")

    def test_missing_and_unknown(self, fails, tmp_path):
        out = tmp_path / "m.qdq.onnx"
        assert "no such checkpoint" in fails("export", tmp_path / "none.pt", "-o", out)
        assert "retinanet_r18" in fails("export", "retinanet_r81", "-o", out)

    def test_image_size_that_the_network_cannot_have(self, fails, tmp_path):
        sentence = fails("export", "fcos_r18", "--image-size", "100", "-o", tmp_path / "m.qdq.onnx")
        assert "multiples of 32" in sentence


class TestQdqFiles:
    @pytest.mark.parametrize("step", [0.0, -0.5, float("nan"), float("inf")])
    @pytest.mark.parametrize("which", ["backbone.layer1.0.conv1.conv.input.step", "fpn.p6.conv.weight.step"])
    def test_bad_scale(self, which, step, qdq_copy, fails, tmp_path):
        replace_initializer(qdq_copy, which, np.asarray(step, np.float32))
        sentence = fails("lower", saved(qdq_copy, tmp_path), "-o", tmp_path / "m.int.onnx")
        assert "scale" in sentence or "infinity can't be a quantization step" in sentence

    def test_zero_negative_and_tiny_gamma_work(self, qdq_copy, tmp_path):
        name = "backbone.layer1.0.conv1.bn.gamma"
        gamma = np.array([0, -0.5, 1e-12, -1e-30, 1, 1, 1, 1], np.float32)
        replace_initializer(qdq_copy, name, gamma)
        out = tmp_path / "m.int.onnx"
        assert invoke(["lower", str(saved(qdq_copy, tmp_path)), "-o", str(out)]) == 0
        assert out.exists()

    def test_dynamic_shape(self, qdq_copy, fails, tmp_path):
        for index in (2, 3):
            qdq_copy.graph.input[0].type.tensor_type.shape.dim[index].dim_param = "side"
        del qdq_copy.graph.value_info[:]
        path, out = saved(qdq_copy, tmp_path), tmp_path / "m.int.onnx"
        assert "--shape" in fails("lower", path, "-o", out)
        for shape in ("1x3x64x64", "1,3,64,64", "1, 3, 64, 64"):
            assert invoke(["lower", str(path), "-o", str(out), "--shape", shape]) == 0

    def test_unknown_operator(self, qdq_copy, fails, tmp_path):
        relu = next(node for node in qdq_copy.graph.node if node.op_type == "Relu")
        relu.op_type = "Hardmax"
        assert "Hardmax" in fails("lower", saved(qdq_copy, tmp_path), "-o", tmp_path / "m.int.onnx")

    def test_accumulator_that_could_overflow(self, fails, tmp_path):
        path = saved(overflowing(), tmp_path)
        sentence = fails("lower", path, "-o", tmp_path / "m.int.onnx")
        assert "wide" in sentence
        assert "channel" in sentence

    def test_output_problems(self, qdq, fails, tmp_path):
        path = saved(qdq, tmp_path)
        told = fails("lower", path, "-o", path / "none" / "m.int.onnx")
        assert "the folder of the output cannot be made" in told and f"{path} is not a folder" in told
        assert "is a folder" in fails("lower", path, "-o", tmp_path)
        assert "also an input" in fails("lower", path, "-o", path)

    def test_full_disk(self, qdq, fails, tmp_path, monkeypatch):
        def full(_: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        path = saved(qdq, tmp_path)
        monkeypatch.setattr(os, "fsync", full)
        assert "No space left on device" in fails("lower", path, "-o", tmp_path / "m.int.onnx")

    def test_full_disk_leaves_the_old_file(self, qdq, tmp_path, monkeypatch, capsys):
        def full(_: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        path, out = saved(qdq, tmp_path), tmp_path / "m.int.onnx"
        out.write_bytes(b"old")
        monkeypatch.setattr(os, "fsync", full)
        assert invoke(["lower", str(path), "-o", str(out)]) == 1
        assert out.read_bytes() == b"old"

    @pytest.mark.parametrize(
        ("output", "folder", "words"),
        [
            (f"d/{STEMS[-2]}.onnx", "d", "also a file of the dump"),
            ("d", "d", "the folder of the dump"),
            ("m.int.onnx", "", "--dump-passes has no name"),
        ],
    )
    def test_outputs_in_the_place_of_the_dump(self, qdq, fails, tmp_path, monkeypatch, output, folder, words):
        monkeypatch.chdir(tmp_path)
        path = saved(qdq, tmp_path)
        assert words in fails("lower", path, "-o", output, "--dump-passes", folder)
        assert list(tmp_path.iterdir()) == [path]


def overflowing() -> onnx.ModelProto:
    """A 3x3 convolution over 3,800 channels whose 8-bit weights are all 255: 9 · 3800 · 255 · 255 > 2^31."""
    channels = 3_800
    graph = GraphBuilder("overflow")
    x = graph.image([104, 116, 124], [1.0, 1.0, 1.0], 3, 3)
    spread = np.ones((channels, 3, 1, 1), np.int8)
    x = graph.add("Conv", [x, graph.quantized_weight(spread, 1.0, 4, "spread")], "expand")
    x = graph.quantize_activation(graph.add("Relu", [x], "relu"), 1.0, 8, "input")
    wide = np.full((1, channels, 3, 3), 255, np.int16)
    x = graph.add("Conv", [x, graph.quantized_weight(wide, 1.0, 8, "weight")], "wide")
    graph.output(x, "out", [1, 1, 1, 1])
    return graph.model({})


VERBS_THAT_READ_ONNX = [
    ("lower", "{}", "-o", "o.onnx"),
    ("compile", "{}", "-o", "o.so"),
    ("inspect", "{}"),
]


@pytest.mark.parametrize("verb", VERBS_THAT_READ_ONNX, ids=lambda verb: verb[0])
class TestOnnxFiles:
    @pytest.fixture
    def reads(self, fails, tmp_path, verb, monkeypatch):
        def call(path: Path) -> str:
            monkeypatch.chdir(tmp_path)
            return fails(*(part.format(path) for part in verb))

        return call

    def test_missing(self, reads, tmp_path):
        assert "there is no such ONNX file" in reads(tmp_path / "none.onnx")

    @pytest.mark.parametrize("content", [b"", b"not onnx at all", b"\x7fELF", b"\x08\x0a" * 40])
    def test_not_onnx(self, content, reads, tmp_path):
        path = tmp_path / "m.onnx"
        path.write_bytes(content)
        assert "ONNX" in reads(path)

    def test_truncated(self, qdq, reads, tmp_path):
        data = qdq.SerializeToString()
        path = tmp_path / "m.onnx"
        path.write_bytes(data[: len(data) // 2])
        assert "truncated" in reads(path)

    def test_larger_than_2_gb(self, reads, tmp_path):
        path = tmp_path / "m.onnx"
        with path.open("wb") as file:
            file.truncate(2**31 + 1)
        assert "2 GB" in reads(path)

    def test_external_data_missing(self, qdq_copy, reads, tmp_path):
        path = tmp_path / "m.onnx"
        onnx.save(qdq_copy, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
        (tmp_path / "weights.bin").unlink()
        assert "missing" in reads(path)

    def test_external_data_outside_the_folder(self, qdq_copy, reads, tmp_path):
        inside = tmp_path / "inside"
        inside.mkdir()
        (tmp_path / "secret.bin").write_bytes(bytes(64))
        tensor = qdq_copy.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", "../secret.bin"
        (inside / "m.onnx").write_bytes(qdq_copy.SerializeToString())
        assert "outside" in reads(inside / "m.onnx")


class TestImages:
    @pytest.mark.parametrize(
        ("name", "content"),
        [("a.png", b""), ("a.png", b"text"), ("a.jpg", b"\xff\xd8\xff\xe0 half"), ("a.svg", b"<svg/>")],
    )
    def test_no_image(self, name, content, integer_file, fails, tmp_path):
        path = tmp_path / name
        path.write_bytes(content)
        assert "image" in fails("detect", integer_file, path, "-o", tmp_path / "out")

    def test_one_bad_image_among_good_ones_strictly_leaves_nothing(self, integer_file, fails, tmp_path):
        Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
        (tmp_path / "b.png").write_bytes(b"text")
        images = tmp_path / "a.png", tmp_path / "b.png"
        sentence = fails("detect", integer_file, *images, "-o", tmp_path / "out", "--strict")
        assert "b.png" in sentence and "not an image" in sentence

    def test_bad_images_of_a_folder_are_told_and_the_others_done(self, integer_file, capsys, tmp_path):
        for k in range(12):
            Image.new("RGB", (20, 20)).save(tmp_path / f"{k:02}.png")
        for k in (2, 3, 5, 7, 8, 11):
            (tmp_path / f"{k:02}.png").write_bytes(b"text")
        (tmp_path / "._a.jpg").write_bytes(b"Mac OS X")
        out = tmp_path / "new" / "out"
        assert invoke(["detect", str(integer_file), str(tmp_path), "-o", str(out), "--json"]) == 1
        told = capsys.readouterr()
        document, sentence = json.loads(told.out), told.err.splitlines()[-1]
        assert [Path(entry["file"]).name for entry in document["failed"]] == [
            f"{k:02}.png" for k in (2, 3, 5, 7, 8, 11)
        ]
        assert all("not an image" in entry["error"] for entry in document["failed"])
        assert len(document["images"]) == 6
        assert sentence.startswith("error: 6 of 12 images failed; got ") and sentence.endswith(", 1 more")
        assert str(tmp_path / "02.png") in sentence

    def test_missing_image_and_empty_folder(self, integer_file, fails, tmp_path):
        (tmp_path / "empty").mkdir()
        assert "no such image" in fails("detect", integer_file, tmp_path / "x.png", "-o", tmp_path / "out")
        assert "no images" in fails("detect", integer_file, tmp_path / "empty", "-o", tmp_path / "out")

    def test_unusual_images_work(self, integer_file, tmp_path):
        Image.new("RGB", (1, 1)).save(tmp_path / "one.png")
        Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000).save(tmp_path / "deep.png")
        Image.new("CMYK", (9, 5)).save(tmp_path / "print.jpg")
        names = [str(tmp_path / name) for name in ("one.png", "deep.png", "print.jpg")]
        assert invoke(["detect", str(integer_file), *names, "-o", str(tmp_path / "out")]) == 0
        drawn = sorted(path.name for path in (tmp_path / "out").glob("[!.]*"))
        assert drawn == ["deep.png", "images.json", "one.png", "print.png", "results.json"]


def program_file(path: Path, **changes: object) -> Path:
    """A file with a program's footer and manifest whose library is this Python: it must never be loaded."""
    from importlib import metadata

    from aqd_deploy.runtime.container import append_manifest
    from aqd_deploy.targets.cpu import read_cpu

    path.write_bytes(Path(sys.executable).resolve().read_bytes())
    program = {
        "tvm_version": metadata.version("apache-tvm"),
        "target": {"name": "host", "architecture": read_cpu().architecture, "features": []},
        "inputs": [],
        "outputs": [],
    }
    append_manifest(path, {"name": "x", "program": {**program, **changes}})
    return path


@pytest.mark.parametrize(
    "verb",
    [("run", "{}", "--input", "x.npz"), ("detect", "{}", "a.png", "-o", "out"), ("bench", "{}")],
    ids=lambda verb: verb[0],
)
class TestPrograms:
    @pytest.fixture
    def loads(self, fails, tmp_path, verb, monkeypatch):
        monkeypatch.chdir(tmp_path)
        np.savez(tmp_path / "x.npz", image=np.zeros((1, 3, 4, 4), np.uint8))
        Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
        return lambda path: fails(*(part.format(path) for part in verb))

    def test_no_program(self, loads, tmp_path):
        (tmp_path / "m.so").write_bytes(b"text")
        assert "not a compiled program" in loads(tmp_path / "m.so")
        assert "no such program" in loads(tmp_path / "none.so")

    def test_library_of_another_program(self, loads, tmp_path):
        (tmp_path / "m.so").write_bytes(Path(sys.executable).resolve().read_bytes())
        assert "not one of our programs" in loads(tmp_path / "m.so")

    def test_damaged(self, loads, tmp_path):
        path = program_file(tmp_path / "m.so")
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        assert "damaged" in loads(path)

    def test_another_version(self, loads, tmp_path):
        assert "another version" in loads(program_file(tmp_path / "m.so", tvm_version="0.1"))

    def test_another_cpu(self, loads, tmp_path):
        target = {"name": "x", "architecture": "riscv64", "features": []}
        assert "another CPU" in loads(program_file(tmp_path / "m.so", target=target))


def test_unknown_targets_name_the_nearest(fails, qdq, tmp_path):
    path = saved(qdq, tmp_path)
    assert "cascadelake" in fails("compile", path, "-o", tmp_path / "m.so", "--target", "cascade-lake")
    assert "cascadelake" in fails("targets", "show", "cascade-lake")


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04", None])
def test_bad_arrays(content, integer_file, fails, tmp_path):
    path = tmp_path / "x.npz"
    if content is not None:
        path.write_bytes(content)
    assert ".npz" in fails("run", integer_file, "--input", path, "-o", tmp_path / "y.npz")


def test_arrays_that_do_not_fit(integer_file, fails, tmp_path):
    out = tmp_path / "y.npz"
    np.savez(tmp_path / "a.npz", other=np.zeros(3))
    assert "image" in fails("run", integer_file, "--input", tmp_path / "a.npz", "-o", out)
    np.savez(tmp_path / "b.npz", image=np.zeros((1, 3, 5, 5), np.uint8))
    assert "[1, 3, 64, 64]" in fails("run", integer_file, "--input", tmp_path / "b.npz", "-o", out)
    np.savez(tmp_path / "c.npz", image=np.array([object()]))
    assert "Python objects" in fails("run", integer_file, "--input", tmp_path / "c.npz", "-o", out)


def test_integer_files_without_a_detector_give_no_boxes(fails, tmp_path):
    node = helper.make_node("Identity", ["image"], ["y"])
    kind = (TensorProto.UINT8, [1, 3, 4, 4])
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("image", *kind)],
        [helper.make_tensor_value_info("y", *kind)],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10),
        tmp_path / "i.onnx",
    )
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    sentence = fails("detect", tmp_path / "i.onnx", tmp_path / "a.png", "-o", tmp_path / "out")
    assert "no detector" in sentence


def test_unknown_peers_and_files(fails, tmp_path):
    (tmp_path / "m.txt").write_text("text")
    assert ".onnx" in fails("inspect", tmp_path / "m.txt")
    assert "onnxruntime" in fails("bench", tmp_path / "m.so", "--against", "tensorrt")
    assert "PEER=R" in fails("bench", tmp_path / "m.so", "--max-ratio", "openvino")


def test_demo_without_checkpoints(fails, tmp_path):
    pytest.importorskip("torch")
    assert "checkpoint" in fails("demo", "-o", tmp_path / "out", "--checkpoints", tmp_path)


class TestFilesThatCannotBeRead:
    """Exit code 1 and a sentence that names the path, whatever the kind of file and however it is named."""

    COMMANDS = (
        ("lower", "{}.onnx", "-o", "o.onnx"),
        ("inspect", "{}.onnx"),
        ("inspect", "{}.so"),
        ("inspect", "{}.pt"),
        ("export", "{}.pt", "-o", "o.onnx"),
        ("run", "{}.so", "--input", "x.npz"),
        ("run", "m.int.onnx", "--input", "{}.npz"),
        ("detect", "m.int.onnx", "{}.png", "-o", "out"),
        ("package", "{}.so", "-o", "out"),
    )

    @pytest.mark.parametrize("verb", COMMANDS, ids=lambda verb: f"{verb[0]} {verb[1]}")
    @pytest.mark.parametrize("kind", ["pipe", "device", "forbidden"])
    def test_pipes_devices_and_permissions(self, verb, kind, integer_file, fails, tmp_path, monkeypatch):
        if verb[0] == "export" or ".pt" in verb[1]:
            pytest.importorskip("torch")
        monkeypatch.chdir(tmp_path)
        name = next(part for part in verb if "{}" in part).format("bad")
        match kind:
            case "pipe":
                os.mkfifo(name)
            case "device":
                os.symlink("/dev/zero", name)
            case "forbidden":
                Path(name).write_bytes(b"123")
                refuse_to_open(monkeypatch, name)
        sentence = fails(*(part.format("bad") for part in verb))
        assert name in sentence
        assert {"pipe": "a pipe is no ", "device": "a device is no ", "forbidden": "Permission denied"}[
            kind
        ] in sentence

    def test_the_type_of_an_argument_checks_nothing_itself(self, tmp_path, monkeypatch):
        """click's own check would exit with 2 and speak of the option's name."""
        from aqd_deploy.cli.options import existing

        path = tmp_path / "m.onnx"
        path.write_bytes(b"")
        monkeypatch.setattr(os, "access", lambda *_: False)
        assert existing("QDQ.onnx").convert(str(path), None, None) == path


def refuse_to_open(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A file without permissions: for the superuser, who may open all, by hand."""
    os.chmod(name, 0)
    real_open, real_access = os.open, os.access

    def refuse(path, *arguments, **options):
        if os.fspath(path).endswith(name):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return real_open(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(
        os, "access", lambda path, *a, **k: not str(path).endswith(name) and real_access(path, *a, **k)
    )
