"""`quantize --complete`, `quantize --search` and `inspect --compare` on the command line."""

import json

import numpy as np
import onnx
import pytest
from float_networks import images, residual_network

from aqd_deploy.cli.main import invoke
from aqd_deploy.quantization.recipe import read_recipe


@pytest.fixture
def files(tmp_path):
    """A float network and arrays for it."""
    onnx.save(residual_network(), tmp_path / "float.onnx")
    np.savez(tmp_path / "x.npz", image=np.concatenate([feed["image"] for feed in images(16)]))
    return tmp_path


def quantized(files, *more, source="float.onnx", output="m.qdq.onnx"):
    return ["quantize", str(files / source), "--calibration", str(files / "x.npz"), "-o", str(files / output),
            *map(str, more)]  # fmt: skip


def report(capsys, *arguments):
    assert invoke([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_what_a_file_lacks_is_completed(files, capsys, fails):
    assert invoke(quantized(files, "--exclude", "head.*", "--exclude", "block.0")) == 0
    capsys.readouterr()
    refused = fails("lower", files / "m.qdq.onnx", "-o", files / "m.int.onnx")
    assert "try: aqd-deploy quantize FILE --complete --calibration DIR" in refused
    done = report(capsys, *quantized(files, "--complete", source="m.qdq.onnx", output="whole.qdq.onnx"))
    assert {row["layer"] for row in done["layers"]} == {"block.0", "head.fine", "head.coarse"}
    assert invoke(["lower", str(files / "whole.qdq.onnx"), "-o", str(files / "m.int.onnx")]) == 0
    capsys.readouterr()
    again = quantized(files, "--complete", source="whole.qdq.onnx", output="more.qdq.onnx")
    assert "no quantizer is missing in this file" in fails(*again)
    assert "quantize FILE --complete" in fails(*quantized(files, source="m.qdq.onnx", output="no.onnx"))


def test_completing_changes_no_weights(files, capsys, fails):
    assert invoke(quantized(files, "--exclude", "head.*")) == 0
    capsys.readouterr()
    for option in (["--equalise"], ["--bias-correction"], ["--adaptive-rounding", 5]):
        words = quantized(files, "--complete", *option, source="m.qdq.onnx", output="no.onnx")
        assert "changes weights, for which the file has quantizers" in fails(*words)


def test_layers_are_compared(files, capsys):
    assert invoke(quantized(files, "--bits", 4)) == 0
    capsys.readouterr()
    words = ["inspect", files / "m.qdq.onnx", "--compare", files / "float.onnx", "--calibration",
             files / "x.npz"]  # fmt: skip
    document = report(capsys, *words)
    assert document["images"] == 16 and len(document["layers"]) == 7
    noise = [row["alone"]["noise_ratio"] for row in document["layers"]]
    assert noise == sorted(noise, reverse=True) and noise[0] > 0
    assert invoke([*map(str, words)]) == 0
    assert "7 layers of both files; 16 images" in capsys.readouterr().out


def test_bits_are_searched_for(files, capsys):
    words = quantized(files, "--search", "--max-mb", 0.0012, "--save-recipe", files / "bits.toml")
    document = report(capsys, *words)
    assert document["search"]["total"]["megabytes"] <= 0.0012
    assert read_recipe(files / "bits.toml").overrides
    bits = {name: row["bits"] for row in document["search"]["layers"] for name in row["layers"]}
    assert {row["layer"]: row["weight_bits"] for row in document["layers"]} == bits


def test_what_does_not_go_together(files, capsys):
    for words in (
        quantized(files, "--search"),
        quantized(files, "--max-ms", 1),
        quantized(files, "--search", "--max-ms", 1, "--max-mb", 1),
        quantized(files, "--search", "--max-ms", 0),
        quantized(files, "--search", "--max-mb", 1, "--complete"),
        ["inspect", str(files / "float.onnx"), "--calibration", str(files / "x.npz")],
        ["inspect", str(files / "float.onnx"), "--compare", str(files / "float.onnx")],
    ):
        assert invoke(words) == 2, words
    told = capsys.readouterr().err
    for sentence in ("go with --search", "--search needs one of", "--complete one that is quantized in part",
                     "go with --compare", "--compare needs images"):  # fmt: skip
        assert sentence in told
