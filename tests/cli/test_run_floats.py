"""`run` on floats and codes, with and without a tail; every bad state of a tail is one sentence."""

from __future__ import annotations

import sys

import numpy as np
import onnx
import pytest
from classifiers import (
    CLASSES,
    INPUT,
    OUT_SCALE,
    OUT_ZERO,
    OUTPUT,
    float_image,
    image_codes,
    integer_classifier,
    softmax_tail,
    write_classifier,
)
from onnx import TensorProto, helper
from small_models import reference

from aqd_deploy.cli.main import invoke
from aqd_deploy.integer.tail import tail_path


@pytest.fixture
def classifier(tmp_path):
    """The integer file of a classifier with a softmax behind it."""
    return write_classifier(tmp_path / "c.int.onnx", softmax_tail())


@pytest.fixture
def floats(tmp_path):
    """The file of a float image, for the only input."""
    np.save(tmp_path / "x.npy", float_image())
    return tmp_path / "x.npy"


def expected() -> np.ndarray:
    """The codes of the classes that onnxruntime computes."""
    return reference(integer_classifier(), {INPUT: image_codes(float_image())})[OUTPUT]


def run(path, *arguments) -> dict[str, np.ndarray]:
    out = path.parent / "y.npz"
    words = ["run", str(path), "-o", str(out), *map(str, arguments)]
    assert invoke(words) == 0
    with np.load(out) as arrays:
        return dict(arrays)


def test_floats_are_quantized_and_codes_are_taken(classifier, floats, capsys):
    outputs = run(classifier, "--input", floats)
    assert outputs[OUTPUT].dtype == np.uint8 and outputs[OUTPUT].shape == (1, CLASSES)
    assert np.array_equal(outputs[OUTPUT].ravel(), expected().ravel())
    assert len(set(outputs[OUTPUT].ravel().tolist())) > 2
    assert "the tail behind them was not run; --floats runs it" in capsys.readouterr().err
    codes = floats.with_name("codes.npy")
    np.save(codes, image_codes(float_image()))
    assert np.array_equal(run(classifier, "--input", codes)[OUTPUT], outputs[OUTPUT])
    named = floats.with_name("x.npz")
    np.savez(named, **{INPUT: float_image().astype(np.float64)})
    assert np.array_equal(run(classifier, "--input", named)[OUTPUT], outputs[OUTPUT])


def test_floats_without_a_tail_are_what_integers_stand_for(tmp_path, floats):
    path = write_classifier(tmp_path / "plain.int.onnx")
    values = run(path, "--input", floats, "--floats")
    assert values[OUTPUT].dtype == np.float32
    assert np.array_equal(values[OUTPUT], (expected().reshape(1, -1).astype(int) - OUT_ZERO) * OUT_SCALE)


def test_floats_with_a_tail_are_its_outputs(classifier, floats):
    values = run(classifier, "--input", floats, "--floats", "--check", classifier)
    logits = (expected().reshape(1, -1).astype(np.float64) - OUT_ZERO) * OUT_SCALE
    powers = np.exp(logits - logits.max())
    assert list(values) == ["probabilities", OUTPUT] and np.array_equal(values[OUTPUT], logits)
    # Softmax of onnxruntime is float32.
    assert np.allclose(values["probabilities"], powers / powers.sum(), rtol=1e-5, atol=0)


def test_a_file_that_says_nothing_of_its_input_takes_codes_only(tmp_path, floats, fails, capsys):
    model = integer_classifier()
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "m.int.onnx")
    words = ("run", tmp_path / "m.int.onnx", "--input")
    assert "got float32 [1, 3, 6, 6]; valid: uint8 [1, 3, 6, 6]" in fails(*words, floats)
    np.save(floats, image_codes(float_image()))
    assert invoke([*map(str, words), str(floats)]) == 0
    assert capsys.readouterr().out == f"{OUTPUT}  uint8  1x5x1x1\n"
    assert f"the integer output {OUTPUT} has no scale" in fails(*words, floats, "--floats")


def test_a_tail_that_is_missing(classifier, floats, fails):
    tail_path(classifier).unlink()
    said = fails("run", classifier, "--input", floats, "--floats")
    assert said.startswith("there is no such tail") and "aqd-deploy lower" in said
    assert invoke(["run", str(classifier), "--input", str(floats)]) == 0


def test_a_tail_of_another_program(classifier, floats, fails):
    other = softmax_tail("others").SerializeToString()
    tail_path(classifier).write_bytes(other)
    said = fails("run", classifier, "--input", floats, "--floats")
    assert "is damaged or of another network than" in said and "SHA-256" in said


def test_a_tail_that_onnxruntime_refuses(tmp_path, floats, fails):
    tail = softmax_tail()
    tail.graph.node[0].op_type = "NoSuchOperation"
    path = write_classifier(tmp_path / "c.int.onnx", tail)
    assert "onnxruntime can't load the model" in fails("run", path, "--input", floats, "--floats")


def test_a_tail_of_another_shape(tmp_path, floats, fails):
    tail = softmax_tail()
    shape = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [1, CLASSES + 1])
    tail.graph.input[0].CopyFrom(shape)
    tail.graph.output[0].type.CopyFrom(shape.type)
    path = write_classifier(tmp_path / "c.int.onnx", tail)
    said = fails("run", path, "--input", floats, "--floats")
    assert f"input {OUTPUT} has another shape; got [1, 5]; valid: [1, 6]" in said


def test_a_tail_without_onnxruntime(tmp_path, monkeypatch):
    from aqd_deploy.errors import MissingExtraError
    from aqd_deploy.runtime.tail import Tail

    monkeypatch.setitem(sys.modules, "aqd_deploy.integer.reference", None)
    tail = softmax_tail().SerializeToString()
    with pytest.raises(MissingExtraError, match=r"run by onnxruntime, which is not installed; try: pip"):
        Tail(tail, tmp_path / "m.tail.onnx")
