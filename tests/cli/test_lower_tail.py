"""A network with a float tail through the verbs: both files are written, passed on, shown and run."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from aqd_deploy.bundle import create_bundle, read_bundle
from aqd_deploy.cli.main import invoke
from aqd_deploy.integer import manifest as manifests
from aqd_deploy.integer.tail import read_tail, tail_path
from aqd_deploy.runtime.container import read_manifest

SHAPE, SCALE, ZERO = [1, 3, 8, 8], 0.0625, 120
WEIGHT_SCALE = np.float32(0.01)


def quantized_classifier() -> onnx.ModelProto:
    """image (float) → quantizer → convolution over the whole map → Softmax, as foreign writers have it."""
    weights = np.random.default_rng(2).integers(-127, 128, (6, 3, 8, 8)).astype(np.int8)
    constants = {
        "x_scale": np.array(SCALE, np.float32), "x_zero": np.array(ZERO, np.uint8),
        "w": weights, "w_scale": WEIGHT_SCALE, "w_zero": np.array(0, np.int8),
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "x_scale", "x_zero"], ["x_q"], "q"),
        helper.make_node("DequantizeLinear", ["x_q", "x_scale", "x_zero"], ["x"], "dq"),
        helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["w_f"], "dq_w"),
        helper.make_node("Conv", ["x", "w_f"], ["logits"], "conv"),
        helper.make_node("Softmax", ["logits"], ["probabilities"], "softmax", axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [1, 6, 1, 1])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def qdq_file(tmp_path):
    path = tmp_path / "c.qdq.onnx"
    onnx.save(quantized_classifier(), path)
    return path


@pytest.fixture
def integer_file(qdq_file, capsys):
    """The integer file, with its tail beside it."""
    path = qdq_file.with_name("c.int.onnx")
    assert invoke(["lower", str(qdq_file), "-o", str(path)]) == 0
    capsys.readouterr()
    return path


def test_lower_writes_the_tail_and_says_so(qdq_file, capsys):
    out = qdq_file.with_name("c.int.onnx")
    assert invoke(["lower", str(qdq_file), "-o", str(out), "--explain"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    tail = qdq_file.with_name("c.int.tail.onnx")
    assert [node.op_type for node in onnx.load(tail).graph.node] == ["Softmax"]
    assert "logits: integers end here, the tail reads the reals" in said
    told = f"1 node stays float behind logits and makes probabilities (Softmax): {tail}"
    assert told.replace(" ", "") in said.replace(" ", "")
    assert invoke(["lower", str(qdq_file), "-o", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["tail"]
    assert told == {
        "file": str(tail), "inputs": ["logits"], "outputs": ["probabilities"], "operators": {"Softmax": 1},
    }  # fmt: skip


def test_a_tail_of_an_earlier_file_is_told_and_not_read(qdq_file, integer_file, capsys):
    without = onnx.load(qdq_file)
    (softmax,) = [node for node in without.graph.node if node.op_type == "Softmax"]
    without.graph.node.remove(softmax)
    without.graph.output[0].name = softmax.input[0]
    onnx.save(without, qdq_file)
    assert invoke(["lower", str(qdq_file), "-o", str(integer_file)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "is not this network's, which has no tail: nothing reads it" in said
    assert read_tail(integer_file, manifests.read_manifest(onnx.load(integer_file))) is None


def test_lower_does_not_replace_its_input_by_the_tail(qdq_file, fails):
    path = qdq_file.with_name("d.tail.onnx")
    qdq_file.rename(path)
    before = path.read_bytes()
    assert "the output is also an input" in fails("lower", path, "-o", path.with_name("d.onnx"))
    assert path.read_bytes() == before


def test_neither_file_is_written_where_one_cannot_be(qdq_file, fails):
    tail = qdq_file.with_name("c.int.tail.onnx")
    tail.mkdir()
    assert "the output is a folder" in fails("lower", qdq_file, "-o", qdq_file.with_name("c.int.onnx"))


def test_the_program_gives_what_the_quantized_network_gives(qdq_file, integer_file, tmp_path, capsys):
    program = tmp_path / "c.so"
    words = ["compile", str(integer_file), "-o", str(program), "--target", "x86-64-v2", "--threads", "1"]
    assert invoke(words) == 0
    assert f"{tmp_path / 'c.tail.onnx'}: what stays float behind it" in capsys.readouterr().out
    assert tail_path(program).read_bytes() == tail_path(integer_file).read_bytes()
    image = np.random.default_rng(0).normal(0, 3, SHAPE).astype(np.float32)
    np.save(tmp_path / "x.npy", image)
    words = ["run", str(program), "--input", str(tmp_path / "x.npy"), "-o", str(tmp_path / "y.npz")]
    assert invoke([*words, "--floats", "--check", str(integer_file)]) == 0
    with np.load(tmp_path / "y.npz") as values:
        probabilities, logits = values["probabilities"], values["logits"]
    expected = _in_float64(image)
    assert np.array_equal(logits.ravel(), expected.astype(np.float32))
    powers = np.exp(expected - expected.max())
    # Softmax of onnxruntime is float32.
    assert np.allclose(probabilities.ravel(), powers / powers.sum(), rtol=1e-5)


def _in_float64(image):
    """The logits by the meaning of the QDQ file."""
    constants = {t.name: numpy_helper.to_array(t) for t in quantized_classifier().graph.initializer}
    codes = np.clip(np.rint(image.astype(np.float64) / SCALE) + ZERO, 0, 255) - ZERO
    sums = (constants["w"].astype(np.int64) * codes).sum(axis=(1, 2, 3))
    return sums * (SCALE * float(WEIGHT_SCALE))


def test_a_quantized_file_is_compiled_with_its_tail(qdq_file, tmp_path, capsys):
    program = tmp_path / "c.so"
    words = ["compile", str(qdq_file), "-o", str(program), "--target", "x86-64-v2", "--json"]
    assert invoke(words) == 0
    assert json.loads(capsys.readouterr().out)["tail"] == str(tail_path(program))
    assert read_manifest(program)["inputs"]["image"] == {
        "scale": SCALE, "zero_point": ZERO, "dtype": "uint8",
    }  # fmt: skip
    assert invoke(["inspect", str(program)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "c.tail.onnx: 1 node stays float behind logits and makes probabilities (Softmax)" in said


def test_compile_asks_for_the_tail_before_it_works(integer_file, tmp_path, fails):
    tail_path(integer_file).write_bytes(b"another")
    words = ("compile", integer_file, "-o", tmp_path / "c.so", "--target", "x86-64-v2")
    assert "is damaged or of another network than" in fails(*words)
    tail_path(integer_file).unlink()
    assert fails(*words).startswith("there is no such tail")


def test_inspect_tells_what_is_wrong_with_a_tail(integer_file, capsys):
    tail_path(integer_file).unlink()
    assert invoke(["inspect", str(integer_file)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "c.int.tail.onnx: there is no such tail" in said


def test_a_bundle_has_the_tail_and_a_device_does_without(qdq_file, tmp_path):
    program = tmp_path / "c.so"
    assert invoke(["compile", str(qdq_file), "-o", str(program), "--threads", "1"]) == 0
    assert invoke(["package", str(program), "-o", str(tmp_path / "bundle")]) == 0
    bundle = read_bundle(tmp_path / "bundle")
    assert "program.tail.onnx" in bundle.files
    assert bundle.manifest["reals"]["inputs"]["image"]["scale"] == SCALE
    assert f"= clip(round(real/{SCALE}) + {ZERO})" in (tmp_path / "bundle" / "README.txt").read_text()
    image = np.random.default_rng(0).normal(0, 3, SHAPE).astype(np.float32)
    np.save(tmp_path / "x.npy", image)
    for path in (program, tmp_path / "bundle"):
        words = ["run", str(path), "--input", str(tmp_path / "x.npy"), "-o", str(tmp_path / "y.npz")]
        assert invoke([*words, "--floats"]) == 0
        with np.load(tmp_path / "y.npz") as values:
            assert abs(float(values["probabilities"].sum()) - 1) < 1e-5
    tail_path(program).unlink()
    assert "program.tail.onnx" not in create_bundle(program, tmp_path / "bare").files


def test_package_asks_for_the_tail(qdq_file, tmp_path, fails, capsys):
    program = tmp_path / "c.so"
    assert invoke(["compile", str(qdq_file), "-o", str(program), "--threads", "1"]) == 0
    capsys.readouterr()
    tail_path(program).unlink()
    assert fails("package", program, "-o", tmp_path / "bundle").startswith("there is no such tail")
