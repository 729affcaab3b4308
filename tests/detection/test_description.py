"""A person's description of a detector: what it becomes, and what is told of each mistake."""

from __future__ import annotations

import json
import tomllib

import pytest

from aqd_deploy.detection.description import read_description
from aqd_deploy.detection.images import Preprocess
from aqd_deploy.errors import ModelFileError

MANIFEST = {"inputs": {"images": {"scale": 0.02, "zero_point": 114, "dtype": "uint8"}}}
INPUTS = {"images": (1, 3, 64, 96)}
MAPS = """
[preprocessing]
color = "RGB"
pad_value = [114, 114, 114]
mean = [123.675, 116.28, 103.53]
std = [58.395, 57.12, 57.375]

[detector]
kind = "retinanet"
classes = ["cat", "dog"]
strides = [8]
outputs = { cls = ["scores"], box = ["deltas"] }
anchors = { base = 4.0, scales = [1.0], ratios = [0.5, 1.0] }
"""
BOXES = """
[preprocessing]
color = "RGB"
pad_value = [0, 0, 0]
mean = [0, 0, 0]
std = [255, 255, 255]

[detector]
kind = "boxes"
classes = ["cat", "dog"]
outputs = { boxes = ["b"], scores = ["s"], labels = ["l"] }
"""


@pytest.fixture
def describe(tmp_path):
    """Read a text as the description of a network."""

    def read(text, manifest=MANIFEST, inputs=INPUTS):
        path = tmp_path / "d.toml"
        path.write_text(text)
        return read_description(path, manifest, inputs)

    return read


def test_what_the_network_tells_need_not_be_said(describe):
    entries = describe(MAPS)
    assert entries["preprocessing"]["input"] == "images"
    assert (entries["preprocessing"]["height"], entries["preprocessing"]["width"]) == (64, 96)
    detector = entries["detector"]
    assert (detector["score_threshold"], detector["max_detections"], detector["pre_nms"]) == (0.05, 100, 1000)
    assert detector["nms_iou"] == 0.5 and describe(BOXES)["detector"]["nms_iou"] == 1.0


def test_what_is_said_goes_before(describe):
    entries = describe(MAPS.replace("[detector]", "height = 32\n\n[detector]\nnms_iou = 0.3\npre_nms = 9"))
    assert entries["preprocessing"]["height"] == 32
    assert (entries["detector"]["nms_iou"], entries["detector"]["pre_nms"]) == (0.3, 9)


def test_a_network_of_floats_gets_normalised_pixels(describe):
    steps = Preprocess.from_manifest({**MANIFEST, **describe(BOXES)})
    assert steps.mean == (0, 0, 0) and steps.std == (255, 255, 255)


def test_json_says_the_same(describe, tmp_path):
    path = tmp_path / "d.json"
    path.write_text(json.dumps(tomllib.loads(MAPS)))
    assert read_description(path, MANIFEST, INPUTS) == describe(MAPS)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (MAPS, "d.json is not a JSON file"),
        ("[1]", "d.json is no object"),
        ('{"detector": {}}', r"d.json has no table \[preprocessing\]"),
        ('{"detector": {"x": NaN}}', "NaN is not a JSON number"),
    ],
)
def test_mistakes_in_json(tmp_path, text, words):
    path = tmp_path / "d.json"
    path.write_text(text)
    with pytest.raises(ModelFileError, match=words):
        read_description(path, MANIFEST, INPUTS)


def _without(text, line):
    return "\n".join(each for each in text.splitlines() if not each.startswith(line))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[detector", "d.toml is not a TOML file"),
        ("", r"has no table \[detector\]; got nothing; valid: \[detector\] and \[preprocessing\]"),
        (MAPS.split("[detector]")[0], r"has no table \[detector\]; got preprocessing"),
        ("detector = 3", r"has no table \[detector\]"),
        (MAPS + "\n[network]\n", "has a key that is not known; got network"),
        (MAPS.replace("strides", "stride"), "not known; got detector.stride; valid: kind, classes"),
        (MAPS.replace("pad_value", "padding"), "not known; got preprocessing.padding"),
        (_without(MAPS, "strides"), "d.toml's detector has no strides"),
        (_without(MAPS, "kind"), "d.toml: unknown kind of detector; got None; valid: boxes, fcos, retinanet"),
        (MAPS.replace("[8]", "[0]"), r"d.toml's detector has no valid strides\[0\]; got 0; valid: a whole"),
        (MAPS.replace("[8]", "[8, 16]"), "d.toml's detector names another number of outputs than of strides"),
        (_without(MAPS, "color"), "d.toml's preprocessing has no color"),
        (_without(MAPS, "mean"), "d.toml's preprocessing has no mean"),
        (_without(MAPS, "std"), "d.toml's preprocessing has no std"),
        (MAPS.replace("58.395", "0"), r"no valid std\[0\]; got 0; valid: a finite number greater than 0"),
        (MAPS.replace('"RGB"', '"GRAY"'), "unknown colour order; got GRAY; valid: RGB, BGR"),
        (MAPS.replace("color", 'input = "x"\ncolor'), "preprocessing.input; got x; valid: images"),
        (MAPS.replace("color", "input = [1]\ncolor"), r"preprocessing.input; got \[1\]; valid: images"),
        ("[detector]\nx = " + "[" * 5000, "d.toml is not a TOML file"),
        (BOXES.replace("labels", "classes_"), "d.toml's detector has several classes and no labels"),
    ],
)  # fmt: skip
def test_mistakes(describe, text, words):
    with pytest.raises(ModelFileError, match=words) as caught:
        describe(text)
    assert "docs/how-to/foreign-models.md" in caught.value.next_command


def test_pixels_are_not_normalised_twice(describe):
    with pytest.raises(ModelFileError, match="mean and std for a network that takes pixels"):
        describe(MAPS, manifest={})


def test_the_input_of_several_is_named(describe):
    inputs = {**INPUTS, "mask": (1, 1, 64, 96)}
    with pytest.raises(ModelFileError, match=r"another input than the network has.*valid: images, mask"):
        describe(MAPS, inputs=inputs)
    named = MAPS.replace("color", 'input = "images"\ncolor')
    assert describe(named, inputs=inputs)["preprocessing"]["input"] == "images"


def test_a_size_that_nobody_knows_has_to_be_said(describe):
    with pytest.raises(ModelFileError, match="has no height"):
        describe(MAPS, inputs={"images": (1, 3, "h", "w")})
