"""A manifest held to its graph's input and outputs: every pair of the two that could tell of two networks."""

import copy

import pytest

from aqd_deploy.detection.interface import check_interface
from aqd_deploy.errors import ModelFileError

STRIDES = (8, 16)
ANCHORS = {"base": 4.0, "scales": [1.0, 1.26], "ratios": [0.5, 1.0, 2.0]}


def _network(kind="fcos"):
    """Manifest, inputs, outputs and strides of a detector of three classes for 64 x 100 pixels."""
    cells = 1 if kind == "fcos" else 6
    channels = {"cls": 3 * cells, "box": 4 * cells} | ({"ctr": 1} if kind == "fcos" else {})
    manifest = {
        "preprocessing": {
            "input": "image", "height": 64, "width": 100, "color": "BGR", "pad_value": [1, 2, 3],
        },
        "detector": {
            "kind": kind, "classes": ["a", "b", "c"], "strides": list(STRIDES),
            "outputs": {name: [f"{name}_p3", f"{name}_p4"] for name in channels},
            "anchors": None if kind == "fcos" else copy.deepcopy(ANCHORS),
            "score_threshold": 0.3, "nms_iou": 0.5, "max_detections": 100, "pre_nms": 1000,
        },
    }  # fmt: skip
    outputs = {
        f"{name}_p{level}": [1, count, -(-64 // stride), -(-100 // stride)]
        for name, count in channels.items()
        for level, stride in zip((3, 4), STRIDES, strict=True)
    }
    strides = {name: (8, 8) if name.endswith("3") else (16, 16) for name in outputs}
    return manifest, {"image": [1, 3, 64, 100]}, outputs, strides


@pytest.mark.parametrize("kind", ["fcos", "retinanet"])
def test_one_network(kind):
    manifest, inputs, outputs, strides = _network(kind)
    check_interface(manifest, inputs, outputs)
    check_interface(manifest, inputs, outputs, strides)
    check_interface({"detector": manifest["detector"]}, inputs, outputs)
    check_interface({"preprocessing": manifest["preprocessing"]}, inputs, {})
    check_interface({"preprocessing": None, "detector": None}, {}, {"y": [1, 2, 3, 4]})


def _drop_level(manifest):
    detector = manifest["detector"]
    detector["strides"].pop()
    for names in detector["outputs"].values():
        names.pop()


CHANGES = [
    (
        "fcos",
        lambda m: m["preprocessing"].update(height=100, width=64),
        r"height 100, width 64.*1, 3, 64, 100",
    ),
    ("fcos", lambda m: m["preprocessing"].update(width=96), r"width 96.*lower FILE --shape 1x3x64x100 -o"),
    (
        "fcos",
        lambda m: m["preprocessing"].update(input="picture"),
        "preprocessing.input; got picture; valid: image",
    ),
    ("fcos", lambda m: m["preprocessing"].update(color="GRAY"), "colour order; got GRAY"),
    ("fcos", lambda m: m["detector"]["classes"].pop(), r"2 channels of cls_p3 \(2 classes.*valid: 3"),
    ("retinanet", lambda m: m["detector"]["classes"].append("d"), r"24 channels of cls_p3 .*valid: 18"),
    ("retinanet", lambda m: m["detector"]["anchors"]["scales"].pop(), "9 channels of cls_p3 .*3 anchors"),
    ("fcos", lambda m: m["detector"].update(strides=[16, 8]), "16 for cls_p3"),
    ("fcos", lambda m: m["detector"].update(strides=[4, 8]), "4 for cls_p3"),
    ("fcos", lambda m: m["detector"]["strides"].pop(), "number of outputs than of strides"),
    ("fcos", lambda m: m["detector"]["outputs"]["box"].reverse(), "8 for box_p4"),
    ("fcos", lambda m: m["detector"]["outputs"].update(cls=["cls_p3", "cls_p5"]), "cls_p4, cls_p5"),
    ("fcos", lambda m: m["detector"]["outputs"].update(cls=["cls_p3", "cls_p3"]), "outputs; got cls_p4"),
    ("fcos", _drop_level, "outputs; got box_p4, cls_p4, ctr_p4"),
    (
        "fcos",
        lambda m: m["detector"].update(kind="retinanet", anchors=ANCHORS),
        "outputs; got ctr_p3, ctr_p4",
    ),
    ("fcos", lambda m: m["detector"].update(kind="yolo"), "kind of detector"),
]


@pytest.mark.parametrize("known", [False, True], ids=["by cells", "by strides"])
@pytest.mark.parametrize(("kind", "change", "match"), CHANGES)
def test_another_network(kind, change, match, known):
    manifest, inputs, outputs, strides = _network(kind)
    change(manifest)
    with pytest.raises(ModelFileError, match=match):
        check_interface(manifest, inputs, outputs, strides if known else None)


def test_a_stride_that_makes_as_many_cells_is_told_apart_where_strides_are_known():
    manifest, inputs, outputs, strides = _network()
    manifest["detector"]["strides"] = [8, 15]
    check_interface(manifest, inputs, outputs)
    with pytest.raises(ModelFileError, match="15 for cls_p4; valid: 16 x 16"):
        check_interface(manifest, inputs, outputs, strides)
