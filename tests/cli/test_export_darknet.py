"""`export` of Darknet's files: from the cfg to the boxes that the quantized file means."""

from __future__ import annotations

import json
import struct

import numpy as np
import onnx
import pytest
from float64_reference import Float64Network
from PIL import Image

from aqd_deploy.cli.main import invoke
from aqd_deploy.integer.manifest import read_manifest

SIDE, CLASSES, STRIDE = 32, 2, 4
CFG = f"""[net]
height={SIDE}
width={SIDE}

[convolutional]
batch_normalize=1
filters=8
size=3
stride=2
pad=1
activation=leaky

[maxpool]
size=2
stride=2

[convolutional]
batch_normalize=1
filters=8
size=3
stride=1
pad=1
activation=leaky

[maxpool]
size=2
stride=1

[convolutional]
filters=14
size=1
activation=linear

[region]
anchors = 1,1.5, 2,1
classes={CLASSES}
num=2
softmax=1
"""
ANCHORS = [[1, 1.5], [2, 1]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """`n.cfg`, `n.weights`, `n.names`, and pixels `i.png` and `x.npz`."""
    path, generator = tmp_path_factory.mktemp("darknet"), np.random.default_rng(0)
    numbers = []
    for out, inside, size in ((8, 3, 3), (8, 8, 3)):
        numbers += [generator.normal(size=out) * 0.2, np.ones(out), np.zeros(out), np.ones(out)]
        numbers += [generator.normal(size=out * inside * size**2) / np.sqrt(inside * size**2 / 2)]
    numbers += [generator.normal(size=14), generator.normal(size=14 * 8)]
    header = struct.pack("<3iq", 0, 2, 0, 0)
    (path / "n.cfg").write_text(CFG)
    (path / "n.weights").write_bytes(header + np.concatenate(numbers).astype("<f4").tobytes())
    (path / "n.names").write_text("cat\ndog\n")
    images = generator.integers(0, 256, (8, 3, SIDE, SIDE), np.uint8)
    np.savez(path / "x.npz", image=images)
    Image.fromarray(images[0].transpose(1, 2, 0)).save(path / "i.png")
    return path


def export(folder, *more):
    return ["export", str(folder / "n.cfg"), "-o", str(folder / "m.onnx"), *more]


def weights(folder):
    return ["--weights", str(folder / "n.weights"), "--names", str(folder / "n.names")]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def boxes_of(values):
    """x, y, w, h, the score and the class of every anchor's classes, by loops."""
    for y in range(values.shape[1]):
        for x in range(values.shape[2]):
            for anchor, (width, height) in enumerate(ANCHORS):
                t = values[anchor * 7 : anchor * 7 + 7, y, x]
                across, down = (x + sigmoid(t[0])) * STRIDE, (y + sigmoid(t[1])) * STRIDE
                w, h = np.exp(t[2]) * width * STRIDE, np.exp(t[3]) * height * STRIDE
                low = np.clip([across - w / 2, down - h / 2], 0, SIDE)
                high = np.clip([across + w / 2, down + h / 2], 0, SIDE)
                for label in range(CLASSES):
                    score = sigmoid(t[4]) * np.exp(t[5 + label]) / np.exp(t[5:]).sum()
                    yield [*low, *(high - low), score, label]


def test_from_the_cfg_to_the_boxes(folder, capsys):
    assert invoke([*export(folder, *weights(folder)), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "n"
    words = ["--calibration", str(folder / "x.npz"), "-o", str(folder / "m.qdq.onnx")]
    assert invoke(["quantize", str(folder / "m.onnx"), *words]) == 0
    assert invoke(["lower", str(folder / "m.qdq.onnx"), "-o", str(folder / "m.int.onnx")]) == 0
    words = [str(folder / "i.png"), "-o", str(folder / "found"), "--score-threshold", "0.06"]
    assert invoke(["detect", str(folder / "m.int.onnx"), *words]) == 0
    results = json.loads((folder / "found" / "results.json").read_text())

    network = Float64Network(onnx.load(folder / "m.qdq.onnx"))
    pixels = np.asarray(Image.open(folder / "i.png")).transpose(2, 0, 1)[None]
    expected = np.array(list(boxes_of(network.outputs({"image": pixels})["map_0"][0])))
    found = np.array([[*r["bbox"], r["score"], r["category_id"]] for r in results])
    assert {r["category_name"] for r in results} == {"cat", "dog"}
    # What suppression left is among what there is; the best of each class always is left.
    apart = np.abs(found[:, None] - expected)
    same = (apart[..., :4].max(axis=2) < 2e-3) & (apart[..., 4] < 2e-6) & (apart[..., 5] == 0)
    assert same.any(axis=1).all() and len(found) > 5
    for label in range(CLASSES):
        assert same[:, np.argmax(np.where(expected[:, 5] == label, expected[:, 4], 0))].any()


def test_the_manifest_tells_all(folder):
    assert invoke(export(folder, *weights(folder), "--image-size", "64x96")) == 0
    manifest = read_manifest(onnx.load(folder / "m.onnx"))
    told = manifest["preprocessing"]
    assert (told["height"], told["width"], told["color"], told["std"]) == (64, 96, "RGB", [255] * 3)
    assert told["pad_value"] == [128] * 3
    detector = manifest["detector"]
    assert detector["classes"] == ["cat", "dog"] and detector["strides"] == [STRIDE]
    assert detector["anchors"] == {"sides": [[[4, 6], [8, 4]]]}


def test_weights_have_to_be_named(folder, fails):
    said = fails(*export(folder))
    assert "a Darknet cfg says nothing of the weights" in said and "--weights n.weights" in said


def test_options_of_a_cfg_go_with_one(folder, capsys):
    assert invoke(["export", "fcos_r18", "-o", str(folder / "f.onnx"), *weights(folder)]) == 2
    assert "--weights and --names go with a Darknet .cfg" in capsys.readouterr().err


def test_an_input_is_not_written_over(folder, fails):
    words = ["export", str(folder / "n.cfg"), "-o", str(folder / "n.weights"), *weights(folder)]
    assert "the output is also an input" in fails(*words)
