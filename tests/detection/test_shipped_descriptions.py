"""Descriptions by name: each is whole, and a file over one changes what it says."""

from __future__ import annotations

import pytest

from aqd_deploy.detection.description import read_description
from aqd_deploy.detection.description_file import load_description
from aqd_deploy.detection.descriptions import file_of, shipped
from aqd_deploy.detection.detectors import detector_named
from aqd_deploy.errors import ModelFileError

MANIFEST = {"inputs": {"images": {"scale": 0.02, "zero_point": 0, "dtype": "uint8"}}}
INPUTS = {"images": (1, 3, 64, 64)}
ROWS = {"output0": (1, 84, 84)}
HEADS = {f"h{cells}": (1, 144, cells, cells) for cells in (8, 4, 2)}


@pytest.mark.parametrize("name", shipped())
def test_each_is_whole(name):
    described = load_description(file_of(name))
    assert len(described.detector["classes"]) == len(set(described.detector["category_ids"])) == 80
    assert described.forms and not described.told
    for form in described.forms:
        detector_named(form["kind"])
    outputs = next(shapes for known, shapes, _ in CASES if known == name)
    assert read_description(file_of(name), MANIFEST, INPUTS, lambda: outputs)["preprocessing"]["height"] == 64


CASES = [
    ("yolov3", {f"m{n}": (1, 255, n, n) for n in (8, 4, 2)}, "yolov3"),
    ("yolov5", {f"m{n}": (1, 3, n, n, 85) for n in (2, 8, 4)}, "yolov5"),
    ("yolov5", {"output0": (1, 252, 85)}, "yolo_decoded"),
    ("yolov6", {f"{k}{n}": (1, c, n, n) for n in (8, 4, 2) for k, c in (("b", 4), ("c", 80))}, "yolov8"),
    ("yolov6", {f"{k}{n}": (1, c, n, n) for n in (8, 4, 2) for k, c in (("b", 68), ("c", 80))}, "yolov8"),
    ("yolov7", {"output": (1, 252, 85)}, "yolo_decoded"),
    ("yolov8", HEADS, "yolov8"),
    ("yolov8", ROWS, "yolo_decoded"),
    ("yolov9", ROWS, "yolo_decoded"),
    ("yolo11", HEADS, "yolov8"),
    ("yolo12", ROWS, "yolo_decoded"),
    ("yolov10", {"output0": (1, 300, 6)}, "yolo_end2end"),
    ("yolov10", HEADS, "yolov8"),
    ("yolox", {f"m{n}": (1, 85, n, n) for n in (8, 4, 2)}, "yolox"),
    ("yolox", {"output": (1, 84, 85)}, "yolo_decoded"),
]


@pytest.mark.parametrize(("name", "outputs", "kind"), CASES, ids=range(len(CASES)))
def test_the_form_is_told_by_the_outputs(name, outputs, kind):
    detector = read_description(file_of(name), MANIFEST, INPUTS, lambda: outputs)["detector"]
    assert detector["kind"] == kind
    named = [each for names in detector["outputs"].values() for each in names]
    assert sorted(named) == sorted(outputs)
    if name == "yolox" and kind == "yolo_decoded":
        assert detector["cells"] == [[8, 8, 8], [16, 4, 4], [32, 2, 2]]


@pytest.fixture
def describe(tmp_path):
    def read(text, outputs=HEADS, manifest=MANIFEST):
        (tmp_path / "d.toml").write_text(text)
        return read_description(tmp_path / "d.toml", manifest, INPUTS, lambda: outputs)

    return read


def test_a_file_over_one(describe):
    text = (
        'base = "yolov8"\n[preprocessing]\ncolor = "BGR"\n[detector]\nclasses = ["a", "b"]\nnms_iou = 0.3\n'
    )
    heads = {f"h{cells}": (1, 66, cells, cells) for cells in (8, 4, 2)}
    entries = describe(text, heads)
    assert entries["preprocessing"]["color"] == "BGR" and entries["preprocessing"]["std"] == [255] * 3
    detector = entries["detector"]
    assert (detector["nms_iou"], detector["bins"], detector["score_threshold"]) == (0.3, 16, 0.05)
    # The ids of the base are those of its classes.
    assert "category_ids" not in detector and detector["outputs"] == {"map": ["h8", "h4", "h2"]}


def test_a_kind_of_its_own_has_no_forms(describe):
    text = 'base = "yolov8"\n[detector]\nkind = "yolo_end2end"\n'
    assert describe(text, {"o": (1, 9, 6)})["detector"]["kind"] == "yolo_end2end"


def test_named_outputs_choose_the_form(describe):
    outputs = {**HEADS, "more": (1, 144, 8, 8), "rows": (1, 84, 84)}
    named = 'base = "yolov8"\n[detector]\noutputs = { map = ["more", "h4", "h2"] }\n'
    assert describe(named, outputs)["detector"]["outputs"]["map"][0] == "more"
    named = 'base = "yolov8"\n[detector]\noutputs = { rows = ["rows"] }\n'
    assert describe(named, outputs)["detector"]["kind"] == "yolo_decoded"


def test_pixels_need_no_mean_of_a_base(describe):
    """A network that takes pixels as they are has them inside."""
    assert describe('base = "yolov8"\n', manifest={})["detector"]["kind"] == "yolov8"
    with pytest.raises(ModelFileError, match="has std for a network that takes pixels"):
        describe('base = "yolov8"\n[preprocessing]\nstd = [1, 1, 1]\n', manifest={})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('base = "yolo"\n', "d.toml begins with a description that does not ship; got yolo; valid: yolo11"),
        ("base = 3\n", "begins with a description that does not ship; got 3"),
        ('base = "_coco"\n', "does not ship; got _coco"),
        ('base = "yolov8"\ndetector = 3\n', r"has no table \[detector\]"),
        ('base = "yolov8"\n[detector]\nanchor = 3\n', "not known; got detector.anchor; valid: kind, classes"),
        ('base = "yolov8"\n[[forms]]\nstrides = [8]\n', r"has no valid forms; valid: \[\[forms\]\]"),
        (
            'base = "yolov8"\n[detector]\nclasses = ["a"]\n',
            "finds no outputs of its kinds for 1 classes and 64",
        ),
        ('base = "yolov8"\n[detector]\noutputs = { o = ["h8"] }\n', "finds no outputs of its kinds"),
        ('base = "yolov8"\n[detector]\nbins = 0\n', r"no valid bins; got 0; valid: a whole number"),
    ],
)
def test_mistakes_over_one(describe, text, words):
    with pytest.raises(ModelFileError, match=words):
        describe(text)
