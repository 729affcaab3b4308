"""What maps and rows of YOLO networks mean, against loops that are written from the papers and exports; maps
of integers give what the numbers give that they stand for.
"""

from __future__ import annotations

import numpy as np
import pytest

from aqd_deploy.detection.decode import decode
from aqd_deploy.detection.detectors import detector_named
from aqd_deploy.detection.images import Placement
from aqd_deploy.detection.settings import DetectorSettings
from aqd_deploy.errors import ModelFileError, ShapeError

SIDE, CLASSES, STRIDES = 64, 3, (16, 32)
SIDES = [[[10.0, 14.0], [20.0, 12.0]], [[30.0, 36.0], [50.0, 40.0]]]
STEP = 0.0005


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def manifest(kind, names, outputs=None, **more):
    """All boxes, nothing suppressed."""
    detector = {
        "kind": kind, "classes": [str(k) for k in range(CLASSES)], "outputs": names, "score_threshold": 0.0,
        "nms_iou": 1.0, "max_detections": 10_000, "pre_nms": 10_000, **more,
    }  # fmt: skip
    return {"detector": detector, "outputs": outputs or {}}


def anchors_v3(t, x, y, stride, side):
    return [(x + sigmoid(t[0])) * stride, (y + sigmoid(t[1])) * stride, *(np.exp(t[2:4]) * side)]


def anchors_v4(t, x, y, stride, side):
    across, down = (sigmoid(t[:2]) - 0.5) * 1.2 + 0.5
    return [(x + across) * stride, (y + down) * stride, *(np.exp(t[2:4]) * side)]


def anchors_v5(t, x, y, stride, side):
    across, down = 2 * sigmoid(t[:2]) - 0.5
    return [(x + across) * stride, (y + down) * stride, *((2 * sigmoid(t[2:4])) ** 2 * side)]


def of_anchors(box):
    def rows(values, level, y, x):
        for anchor, side in enumerate(SIDES[level]):
            t = values[anchor * (5 + CLASSES) : (anchor + 1) * (5 + CLASSES), y, x]
            yield [*box(t, x, y, STRIDES[level], np.array(side)), *(sigmoid(t[4]) * sigmoid(t[5:]))]

    return rows


def of_softmax(values, level, y, x):
    for anchor, side in enumerate(SIDES[level]):
        t = values[anchor * (5 + CLASSES) : (anchor + 1) * (5 + CLASSES), y, x]
        box = anchors_v3(t, x, y, STRIDES[level], np.array(side))
        yield [*box, *(sigmoid(t[4]) * np.exp(t[5:]) / np.exp(t[5:]).sum())]


def of_distributions(bins):
    def rows(values, level, y, x):
        t, stride, sides = values[:, y, x], STRIDES[level], []
        for k in range(4):
            z = t[k * bins : (k + 1) * bins]
            mean = sum(i * np.exp(z[i]) for i in range(bins)) / np.exp(z).sum() if bins > 1 else z[0]
            sides.append(mean * stride)
        x1, y1 = (x + 0.5) * stride - sides[0], (y + 0.5) * stride - sides[1]
        x2, y2 = (x + 0.5) * stride + sides[2], (y + 0.5) * stride + sides[3]
        yield [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, *sigmoid(t[4 * bins :])]

    return rows


def of_cells(values, level, y, x):
    t, stride = values[:, y, x], STRIDES[level]
    yield [(x + t[0]) * stride, (y + t[1]) * stride, *np.exp(t[2:4]) * stride,
           *(sigmoid(t[4]) * sigmoid(t[5:]))]  # fmt: skip


ANCHORS = {"strides": list(STRIDES), "anchors": {"sides": SIDES}}
CASES = {
    "yolov2": ("yolov2", 16, of_softmax, ANCHORS),
    "yolov3": ("yolov3", 16, of_anchors(anchors_v3), ANCHORS),
    "yolov4": ("yolov3", 16, of_anchors(anchors_v4), {**ANCHORS, "scale_xy": [1.2, 1.2]}),
    "yolov5": ("yolov5", 16, of_anchors(anchors_v5), ANCHORS),
    "yolov8": ("yolov8", 67, of_distributions(16), {"strides": list(STRIDES)}),
    "yolov6": ("yolov8", 7, of_distributions(1), {"strides": list(STRIDES), "bins": 1}),
    "yolox": ("yolox", 8, of_cells, {"strides": list(STRIDES)}),
}


def maps_of(channels):
    """Codes of the levels, int32 [1, C, H, W]."""
    generator = np.random.default_rng(channels)
    return [generator.integers(-4000, 4000, (1, channels, SIDE // s, SIDE // s), np.int32) for s in STRIDES]


def expected_of(rows, codes):
    found = [
        row
        for level, each in enumerate(codes)
        for y in range(each.shape[2])
        for x in range(each.shape[3])
        for row in rows(each[0] * STEP, level, y, x)
    ]
    return np.array(found)


def assert_decoded(found, rows):
    """Every class of every row with its box, clipped; Detections are float32."""
    half = rows[:, 2:4] / 2
    boxes = np.clip(np.concatenate([rows[:, :2] - half, rows[:, :2] + half], axis=1), 0, SIDE)
    solid = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    boxes, scores = boxes[solid], rows[solid, 4:]
    place, label = np.divmod(np.argsort(-scores, axis=None, kind="stable"), CLASSES)
    assert len(found) == scores.size > 10
    assert np.allclose(found.scores, scores[place, label], atol=1e-6)
    apart = np.diff(found.scores, prepend=2, append=-1) < -1e-6
    alone = apart[:-1] & apart[1:]
    assert alone.mean() > 0.9
    assert np.allclose(found.boxes[alone], boxes[place][alone], atol=1e-3)
    assert (found.labels[alone] == label[alone]).all()


PLACE = Placement(SIDE, SIDE, 0, 0, SIDE, SIDE)


@pytest.mark.parametrize("integers", [False, True], ids=["floats", "integers"])
@pytest.mark.parametrize("case", CASES)
def test_maps(case, integers):
    kind, channels, rows, more = CASES[case]
    codes = maps_of(channels)
    names = [f"m{level}" for level in range(len(codes))]
    outputs = {n: each if integers else each * STEP for n, each in zip(names, codes, strict=True)}
    described = {name: {"scale": STEP} for name in names}
    found = decode(outputs, manifest(kind, {"map": names}, described, **more), PLACE)
    assert_decoded(found, expected_of(rows, codes))


@pytest.mark.parametrize(
    ("case", "parts"), [("yolov8", {"box": 64, "cls": 3}), ("yolox", {"box": 4, "obj": 1, "cls": 3})]
)
def test_parts_are_the_joined_map(case, parts):
    """Each with a scale and a zero point of its own."""
    kind, channels, rows, more = CASES[case]
    codes, outputs, described, names = maps_of(channels), {}, {}, {}
    for level, each in enumerate(codes):
        pieces = np.split(each, np.cumsum(list(parts.values()))[:-1], axis=1)
        for zero, (part, piece) in enumerate(zip(parts, pieces, strict=True)):
            name = f"{part}{level}"
            outputs[name], described[name] = piece + zero, {"scale": STEP, "zero_point": zero}
            names.setdefault(part, []).append(name)
    assert_decoded(decode(outputs, manifest(kind, names, described, **more), PLACE), expected_of(rows, codes))


def test_anchors_in_front_of_the_rows():
    kind, channels, rows, more = CASES["yolov5"]
    codes = maps_of(channels)
    outputs = {
        f"m{level}": each.reshape(1, 2, channels // 2, *each.shape[2:]).transpose(0, 1, 3, 4, 2) * STEP
        for level, each in enumerate(codes)
    }
    found = decode(outputs, manifest(kind, {"map": list(outputs)}, **more), PLACE)
    assert_decoded(found, expected_of(rows, codes))


def decoded_rows(objectness):
    generator = np.random.default_rng(objectness)
    boxes = np.concatenate([generator.uniform(10, 50, (40, 2)), generator.uniform(4, 30, (40, 2))], axis=1)
    return np.concatenate([boxes, generator.uniform(0.1, 1, (40, objectness + CLASSES))], axis=1)


@pytest.mark.parametrize("objectness", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
def test_rows_of_pixels(objectness, transposed):
    rows = decoded_rows(objectness)
    wanted = rows if not objectness else np.concatenate([rows[:, :4], rows[:, 4:5] * rows[:, 5:]], axis=1)
    output = (rows.T if transposed else rows)[None].astype(np.float32)
    entry = manifest("yolo_decoded", {"rows": ["r"]}, boxes="xywh", objectness=objectness)
    assert_decoded(decode({"r": output}, entry, PLACE), wanted)
    half = rows[:, 2:4] / 2
    corners = np.concatenate([rows[:, :2] - half, rows[:, :2] + half, rows[:, 4:]], axis=1)
    entry = manifest("yolo_decoded", {"rows": ["r"]}, boxes="xyxy", objectness=objectness)
    assert_decoded(decode({"r": corners[None]}, entry, PLACE), wanted)


def test_rows_of_integers_are_what_they_stand_for():
    codes = np.random.default_rng(0).integers(1, 6000, (1, 40, 4 + CLASSES), np.int32)
    entry = manifest(
        "yolo_decoded",
        {"rows": ["r"]},
        {"r": {"scale": 0.01, "zero_point": 1}},
        boxes="xywh",
        objectness=False,
    )
    wanted = (codes[0] - 1) * 0.01
    found = decode({"r": codes}, entry, PLACE)
    assert_decoded(found, wanted)
    with pytest.raises(ModelFileError, match="integer output r has no single scale"):
        decode({"r": codes}, {**entry, "outputs": {"r": {"scale": [0.25, 0.5]}}}, PLACE)


def test_rows_of_cells():
    codes = maps_of(8)
    rows = np.concatenate([each[0].reshape(8, -1).T for each in codes]) * STEP
    rows[:, 4:] = sigmoid(rows[:, 4:])
    cells = [[stride, SIDE // stride, SIDE // stride] for stride in STRIDES]
    entry = manifest("yolo_decoded", {"rows": ["r"]}, boxes="cells", objectness=True, cells=cells)
    assert_decoded(decode({"r": rows[None]}, entry, PLACE), expected_of(of_cells, codes))
    with pytest.raises(ShapeError, match="another number of rows than its cells are; got 19 rows; valid: 20"):
        decode({"r": rows[None, 1:]}, entry, PLACE)


def test_rows_without_suppression():
    rows = [[1, 2, 30, 40, 0.9, 2], [5, 5, 20, 20, 0.4, 0], [0, 0, 0, 0, 0, 0]]
    found = decode({"r": np.array([rows])}, manifest("yolo_end2end", {"rows": ["r"]}), PLACE)
    assert found.boxes.tolist() == [[1, 2, 30, 40], [5, 5, 20, 20]]
    assert found.labels.tolist() == [2, 0] and np.allclose(found.scores, [0.9, 0.4])


def test_a_threshold_is_of_the_product():
    """Objectness and class are each above it, and what they come to is not."""
    values = np.full((1, 8, 4, 4), 1.0)
    values[0, 5, 0, 0] = 3
    outputs = {"m0": values, "m1": np.full((1, 8, 2, 2), -99.0)}
    least = sigmoid(1.0) * sigmoid(1.0)
    entry = manifest("yolox", {"map": ["m0", "m1"]}, strides=list(STRIDES))
    entry["detector"]["score_threshold"] = least + 1e-9
    assert len(decode(outputs, entry, PLACE)) == 1
    entry["detector"]["score_threshold"] = least - 1e-9
    assert len(decode(outputs, entry, PLACE)) == 48


SHAPES = {
    "anchors": ({"a": [1, 16, 4, 4], "b": [1, 16, 2, 2]}, "yolov3", ANCHORS, {"map": ["a", "b"]}),
    "in front": ({"b": [1, 2, 2, 2, 8], "a": [1, 2, 4, 4, 8]}, "yolov5", ANCHORS, {"map": ["a", "b"]}),
    "joined": ({"b": [1, 67, 2, 2], "a": [1, 67, 4, 4]}, "yolov8", {}, {"map": ["a", "b"]}),
    "parts": (
        {"c": [1, 3, 4, 4], "d": [1, 3, 2, 2], "x": [1, 64, 4, 4], "y": [1, 64, 2, 2], "z": [1, 5, 2, 2]},
        "yolov8", {}, {"box": ["x", "y"], "cls": ["c", "d"]},
    ),
    "rows": ({"o": [1, 7, 20]}, "yolo_decoded", {"boxes": "xywh", "objectness": False}, {"rows": ["o"]}),
    "end": ({"o": [1, 300, 6]}, "yolo_end2end", {}, {"rows": ["o"]}),
}  # fmt: skip


def entry_of(kind, more):
    strides = {"strides": list(STRIDES)} if "strides" in detector_named(kind).keys else {}
    return {"kind": kind, "classes": ["0", "1", "2"], **strides, **more}


@pytest.mark.parametrize("case", SHAPES)
def test_outputs_are_found_by_their_shapes(case):
    shapes, kind, more, names = SHAPES[case]
    entry = entry_of(kind, more)
    found = detector_named(kind).found(entry, shapes, (SIDE, SIDE))
    assert found == {**entry, "outputs": names}
    assert detector_named(kind).found(found, shapes, (SIDE, SIDE)) == found
    assert detector_named(kind).found(entry, {"o": [1, 9, 5, 5]}, (SIDE, SIDE)) is None
    # Named ones must fit, too.
    assert detector_named(kind).found({**entry, "outputs": names}, {}, (SIDE, SIDE)) is None


def test_two_outputs_of_one_shape_must_be_named():
    shapes = {"a": [1, 67, 4, 4], "b": [1, 67, 2, 2], "c": [1, 67, 2, 2]}
    kind, entry = detector_named("yolov8"), entry_of("yolov8", {})
    assert kind.found(entry, shapes, (SIDE, SIDE)) is None
    named = {**entry, "outputs": {"map": ["a", "c"]}}
    assert kind.found(named, shapes, (SIDE, SIDE)) == named


@pytest.mark.parametrize(
    ("kind", "names", "more", "words"),
    [
        ("yolov8", {"box": ["a"]}, {"strides": [8]}, "names other outputs than its kind has; got box"),
        ("yolox", {"map": ["a"], "obj": ["b"]}, {"strides": [8]}, "valid: map, or box, cls, obj"),
        ("yolov5", {"map": ["a"]}, {"strides": [8]}, "has no anchors"),
        ("yolov3", {"map": ["a", "b"]}, {**ANCHORS, "scale_xy": [1.1]}, "scale_xy are not one for each"),
        ("yolo_decoded", {"rows": ["r"]}, {"boxes": "cells", "objectness": True}, "does not tell them"),
        ("yolo_decoded", {"rows": ["r"]}, {"boxes": "corners", "objectness": True}, "no valid boxes"),
    ],
)
def test_entries_that_do_not_fit(kind, names, more, words):
    with pytest.raises(ModelFileError, match=words):
        DetectorSettings.from_manifest(manifest(kind, names, **more))
