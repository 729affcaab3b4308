"""Networks like YOLOv8, YOLOX and YOLOv5 that onnxruntime quantized: `detect` finds the boxes that the
float64 meaning of the quantized file has, whether the file decodes them or not; programs compute the
reference's integers.
"""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from float64_reference import Float64Network
from PIL import Image

from aqd_deploy.cli.main import invoke

torch = pytest.importorskip("torch")

from yolo_networks import ANCHORS, CLASSES, SIDE, boxes_of, quantized  # noqa: E402

ALL = (
    'score_threshold = 0.0\nnms_iou = 1.0\nmax_detections = 10000\npre_nms = 10000\nclasses = ["a", "b", "c"]'
)
DESCRIPTIONS = {
    "v8": f'base = "yolov8"\n[detector]\n{ALL}\n',
    "x": f'base = "yolox"\n[preprocessing]\ncolor = "RGB"\nstd = [255, 255, 255]\n[detector]\n{ALL}\n',
    "v5": f'base = "yolov5"\n[detector]\nanchors = {{ sides = {[*ANCHORS]} }}\n{ALL}\n',
}
FILES = [("v8", "joined"), ("x", "rows"), ("v5", "rows")]
PROGRAMS = [("v8", "rows"), ("x", "maps"), ("v5", "permuted")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An image, the descriptions, and `lowered`, which makes `NAME.FORM.int.onnx` once."""
    path = tmp_path_factory.mktemp("yolo")
    pixels = np.random.default_rng(1).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    Image.fromarray(pixels).save(path / "i.png")
    for name, text in DESCRIPTIONS.items():
        (path / f"{name}.toml").write_text(text)
    return path


def lowered(folder, name, form):
    made = folder / f"{name}.{form}.int.onnx"
    if not made.exists():
        assert invoke(["lower", str(quantized(name, form, folder)), "-o", str(made)]) == 0
    return made


def meaning(folder, name, form):
    """Boxes and scores of the quantized file in float64."""
    pixels = np.asarray(Image.open(folder / "i.png")).transpose(2, 0, 1)[None]
    model = onnx.load(folder / f"{name}.{form}.qdq.onnx")
    outputs = Float64Network(model).outputs({"images": (pixels / 255).astype(np.float32)})
    return boxes_of(name, form, [outputs[value.name] for value in model.graph.output])


def detected(folder, program, name, *more):
    """Boxes, scores and classes that `detect` writes."""
    words = ["detect", str(program), str(folder / "i.png"), "-o", str(folder / "found")]
    assert invoke([*words, "--detector", str(folder / f"{name}.toml"), *more]) == 0
    results = json.loads((folder / "found" / "results.json").read_text())
    boxes = np.array([record["bbox"] for record in results]).reshape(-1, 4)
    ids = np.array([record["category_id"] for record in results])
    return boxes, np.array([record["score"] for record in results]), ids


def assert_same_boxes(found, boxes, scores):
    """Every box of a class with a score, each once. Tails are float32, results rounded to six and three
    places.
    """
    boxes = np.clip(boxes, 0, SIDE)
    solid = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    boxes, scores = boxes[solid], scores[solid]
    place, label = np.nonzero(scores > 0)
    expected = np.concatenate([boxes[place, :2], boxes[place, 2:] - boxes[place, :2]], axis=1)
    apart = np.abs(found[0][:, None] - expected).max(axis=2) / 2e-3
    apart = np.maximum(apart, np.abs(found[1][:, None] - scores[place, label]) / 2e-6)
    same = (apart <= 1) & (found[2][:, None] == label)
    assert len(found[0]) == len(expected) > 100
    assert same.any(axis=0).all() and same.any(axis=1).all()


@pytest.mark.parametrize(("name", "form"), FILES)
def test_detect_finds_what_the_file_means(folder, name, form):
    found = detected(folder, lowered(folder, name, form), name)
    assert_same_boxes(found, *meaning(folder, name, form))


@pytest.mark.parametrize(("name", "form"), PROGRAMS)
def test_programs_are_the_reference(folder, capsys, name, form):
    integer, program = lowered(folder, name, form), folder / f"{name}.{form}.so"
    assert invoke(["compile", str(integer), "-o", str(program), "--threads", "1"]) == 0
    generator = np.random.default_rng(3)
    np.save(folder / "x.npy", generator.random((1, 3, SIDE, SIDE), np.float32))
    words = ["--input", str(folder / "x.npy"), "-o", str(folder / "y.npz"), "--check", str(integer)]
    capsys.readouterr()
    assert invoke(["run", str(program), *words]) == 0
    assert "0 of " in capsys.readouterr().out
    assert_same_boxes(detected(folder, program, name), *meaning(folder, name, form))


def test_a_family_by_its_name_with_classes_that_do_not_fit(folder, capsys):
    integer = lowered(folder, "v8", "joined")
    words = ["detect", str(integer), str(folder / "i.png"), "-o", str(folder / "f"), "--detector", "yolov8"]
    assert invoke(words) == 1
    said = capsys.readouterr().err
    assert "the description yolov8 finds no outputs of its kinds for 80 classes and 64 x 64 pixels" in said
    assert f"{64 + CLASSES}, 8, 8]" in said and 'base = "yolov8"' in said
