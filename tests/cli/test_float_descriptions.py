"""`detect`, `eval` and `inspect --compare` of a float network that takes (pixel − mean)/std and says nothing
of images and boxes, as exports of YOLO do.
"""

from __future__ import annotations

import json

import numpy as np
import onnxruntime
import pytest
from float_graphs import CONV3, SIZE, float_graph
from PIL import Image

from aqd_deploy.cli.main import invoke
from aqd_deploy.integer.files import save_onnx

MEAN, STD = [10, 20, 30], [100, 50, 25]
DESCRIPTION = f"""
[preprocessing]
color = "BGR"
pad_value = [0, 0, 0]
mean = {MEAN}
std = {STD}

[detector]
kind = "yolox"
classes = ["a"]
strides = [4]
outputs = {{ box = ["boxes"], obj = ["objectness"], cls = ["classes"] }}
score_threshold = 0.0
nms_iou = 1.0
"""


@pytest.fixture
def folder(tmp_path):
    body = f"""
    x = Conv <kernel_shape = [4, 4], strides = [4, 4]> (image, w0)  r = Relu(x)
    boxes = Conv {CONV3} (r, w1)  objectness = Conv {CONV3} (r, w2)  classes = Conv {CONV3} (r, w3)
    """
    # So small that every box is near its cell.
    small = np.random.default_rng(2).normal(0, 0.02, (4, 4, 3, 3)).astype(np.float32)
    shapes = {"w0": (4, 3, 4, 4), "w1": small, "w2": (1, 4, 3, 3), "w3": (1, 4, 3, 3)}
    save_onnx(float_graph(body, shapes, "boxes objectness classes"), tmp_path / "f.onnx")
    (tmp_path / "d.toml").write_text(DESCRIPTION)
    pixels = np.random.default_rng(1).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    (tmp_path / "images").mkdir()
    Image.fromarray(pixels).save(tmp_path / "images" / "1.png")
    return tmp_path


def test_pixels_become_what_the_description_tells(folder):
    """The scores are those of the normalised image, its channels turned round."""
    words = [str(folder / "f.onnx"), str(folder / "images"), "-o", str(folder / "found")]
    assert invoke(["detect", *words, "--detector", str(folder / "d.toml")]) == 0
    found = json.loads((folder / "found" / "results.json").read_text())
    pixels = np.asarray(Image.open(folder / "images" / "1.png"))[..., ::-1]
    image = (((pixels - np.array(MEAN)) / STD).transpose(2, 0, 1)[None]).astype(np.float32)
    session = onnxruntime.InferenceSession(folder / "f.onnx")
    _, objectness, classes = (1 / (1 + np.exp(-each)) for each in session.run(None, {"image": image}))
    expected = np.sort((objectness * classes).ravel())
    assert len(found) == len(expected) == 4
    # Scores are written with six places.
    np.testing.assert_allclose(sorted(each["score"] for each in found), expected, atol=2e-6)


def test_stages_of_one_network_are_fed_alike(folder):
    """The float one, and the one that is quantized, whose manifest tells of its images itself or not."""
    network, described = str(folder / "f.onnx"), ["--detector", str(folder / "d.toml")]
    quantized = str(folder / "q.onnx")
    words = ["quantize", network, *described, "--calibration", str(folder / "images"), "-o", quantized]
    assert invoke(words) == 0
    (folder / "labels").mkdir()
    (folder / "labels" / "1.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (folder / "names.txt").write_text("a\n")
    labels = ["--annotations", str(folder / "labels"), "--images", str(folder / "images")]
    run = ["-o", str(folder / "run"), "--names", str(folder / "names.txt")]
    assert invoke(["eval", network, quantized, *labels, *run, *described]) == 0
    images = [
        json.loads((folder / "run" / "results" / f"{stage}.json").read_text())
        for stage in ("float", "fake_quantized")
    ]
    scores = [sorted(box[4] for box in each["images"][0]["boxes"]) for each in images]
    assert len(scores[0]) == len(scores[1]) == 4
    # What 8 bits make of it.
    np.testing.assert_allclose(scores[0], scores[1], atol=0.05)


def test_inspect_takes_a_description_by_its_name(folder, capsys):
    words = ["inspect", str(folder / "f.onnx"), "--compare", str(folder / "f.onnx")]
    assert invoke([*words, "--calibration", str(folder / "images"), "--detector", "yolov8"]) == 1
    assert "the description yolov8 finds no outputs" in capsys.readouterr().err
