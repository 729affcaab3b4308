"""`detect --detector`: boxes of a network whose own file says nothing of them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from classifiers import CLASSES, INPUT, OUTPUT, SIDE, write_classifier
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from aqd_deploy.cli.main import invoke
from aqd_deploy.integer.tail import tail_path

BOXES = np.array([[0, 0, 3, 3], [2, 2, 6, 5]], np.float32)
DESCRIPTION = """
[preprocessing]
color = "RGB"
pad_value = [0, 0, 0]
mean = [127.5, 127.5, 127.5]
std = [63.75, 63.75, 63.75]

[detector]
kind = "boxes"
classes = ["a", "b", "c", "d", "e"]
outputs = { boxes = ["boxes"], scores = ["scores"], labels = ["labels"] }
score_threshold = 0.0
"""


def decoding_tail():
    """The two best classes of a softmax, each with a box of its own."""
    nodes = [
        helper.make_node("Softmax", [OUTPUT], ["p"], axis=1),
        helper.make_node("TopK", ["p", "two"], ["scores", "labels"], axis=1),
        helper.make_node("Identity", ["constant"], ["boxes"]),
    ]
    two = numpy_helper.from_array(np.array([2], np.int64), "two")
    graph = helper.make_graph(
        nodes,
        "tail",
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [1, CLASSES])],
        [
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["N", 4]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 2]),
            helper.make_tensor_value_info("labels", TensorProto.INT64, [1, 2]),
        ],
        [two, numpy_helper.from_array(BOXES, "constant")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.fixture
def network(tmp_path):
    """The integer file with its tail, an image that fits, and the description."""
    path = write_classifier(tmp_path / "m.int.onnx", decoding_tail())
    pixels = np.random.default_rng(1).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "i.png")
    (tmp_path / "d.toml").write_text(DESCRIPTION)
    return path


def detect(path, *more):
    folder = path.parent
    return [
        "detect", str(path), str(folder / "i.png"), "-o", str(folder / "found"),
        "--detector", str(folder / "d.toml"), *more,
    ]  # fmt: skip


def test_the_boxes_are_those_of_the_tail(network):
    assert invoke(detect(network)) == 0
    results = json.loads((network.parent / "found" / "results.json").read_text())
    pixels = np.asarray(Image.open(network.parent / "i.png")).transpose(2, 0, 1)[None]
    np.savez(network.parent / "x.npz", **{INPUT: ((pixels - 127.5) / 63.75).astype(np.float32)})
    words = ["--input", str(network.parent / "x.npz"), "-o", str(network.parent / "y.npz"), "--floats"]
    assert invoke(["run", str(network), *words]) == 0
    with np.load(network.parent / "y.npz") as values:
        expected = sorted(zip(values["scores"][0].tolist(), values["labels"][0].tolist(), strict=True))[::-1]
    assert [(r["score"], r["category_id"]) for r in results] == [
        (pytest.approx(score, abs=1e-6), label) for score, label in expected
    ]
    assert [r["bbox"] for r in results] == [[0, 0, 3, 3], [2, 2, 4, 3]]


def test_a_network_without_a_description_gives_no_boxes(network, fails):
    words = detect(network)[:5]
    assert "the manifest has no detector: this network gives no boxes" in fails(*words)


def test_a_description_of_another_network(network, fails):
    text = DESCRIPTION.replace('["scores"]', '["probabilities"]')
    (network.parent / "d.toml").write_text(text)
    said = fails(*detect(network))
    assert "d.toml tells of another network than the graph's at detector.outputs; got probabilities" in said
    (network.parent / "d.toml").write_text(DESCRIPTION.replace("mean", "height = 7\nmean"))
    assert "d.toml tells of another network than the graph's at preprocessing" in fails(*detect(network))


def test_a_tail_that_is_missing_is_told_of_the_tail(network, fails):
    tail_path(network).unlink()
    assert fails(*detect(network)).startswith("there is no such tail")


def test_the_description_is_not_written_over(network, fails):
    words = detect(network)
    words[4] = str(network.parent / "d.toml")
    assert "d.toml" in fails(*words)


def test_a_description_that_is_missing(network, fails):
    (network.parent / "d.toml").unlink()
    assert fails(*detect(network)).startswith("there is no such description of a detector")
