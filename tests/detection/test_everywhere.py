"""What detectors say of all places is what they read without a threshold."""

from __future__ import annotations

import numpy as np
import pytest
from test_yolo_detectors import ANCHORS, CASES, CLASSES, SIDE, STRIDES, manifest

from aqd_deploy.detection.detectors import DETECTORS
from aqd_deploy.detection.settings import DetectorSettings

ROWS = 7
KINDS = {
    **{
        name: (kind, {"map": [(channels, stride) for stride in STRIDES]}, more)
        for name, (kind, channels, _, more) in CASES.items()
    },
    "yolov8 in parts": (
        "yolov8", {"box": [(64, s) for s in STRIDES], "cls": [(CLASSES, s) for s in STRIDES]},
        {"strides": list(STRIDES)},
    ),
    "fcos": (
        "fcos", {kind: [(c, s) for s in STRIDES] for kind, c in (("cls", CLASSES), ("box", 4), ("ctr", 1))},
        {"strides": list(STRIDES), "cell_offset": 0.25},
    ),
    "retinanet": ("retinanet", {"cls": [(2 * CLASSES, s) for s in STRIDES],
                                "box": [(8, s) for s in STRIDES]}, ANCHORS),
}  # fmt: skip


def maps_of(described, seed=0):
    """Floats of the outputs [1, C, H, W] by name, and their names by kind."""
    rng = np.random.default_rng(seed)
    names = {kind: [f"{kind}{k}" for k in range(len(levels))] for kind, levels in described.items()}
    outputs = {
        name: rng.normal(size=(1, channels, SIDE // stride, SIDE // stride + 1)).astype(np.float32)
        for kind, levels in described.items()
        for name, (channels, stride) in zip(names[kind], levels, strict=True)
    }
    return outputs, names


def assert_agree(entry, outputs):
    settings = DetectorSettings.from_manifest(entry)
    for level in settings.levels:
        boxes, scores, labels = settings.detector.read(outputs, {}, level, 0.0, 10**6)
        places = settings.detector.everywhere(outputs, level)
        row, label = np.nonzero(places.scores > 0)
        order = np.argsort(-places.scores[row, label], kind="stable")
        row, label = row[order], label[order]
        assert places.scores.shape == (len(places.boxes), CLASSES) and len(row) == len(scores) > 5
        # Both are float64 of the same numbers, summed in another order.
        np.testing.assert_allclose(places.scores[row, label], scores, rtol=1e-12)
        np.testing.assert_allclose(places.boxes[row], boxes, rtol=1e-12, atol=1e-9)
        np.testing.assert_array_equal(label, labels)
        twice = {key: np.concatenate([value, value]) for key, value in outputs.items()}
        both = settings.detector.everywhere(twice, level)
        np.testing.assert_allclose(both.scores, np.tile(places.scores, (2, 1)), rtol=1e-12)
        np.testing.assert_allclose(both.boxes, np.tile(places.boxes, (2, 1)), rtol=1e-12)


@pytest.mark.parametrize("name", KINDS)
def test_maps(name):
    kind, described, more = KINDS[name]
    outputs, names = maps_of(described)
    assert_agree(manifest(kind, names, **more), outputs)


@pytest.mark.parametrize(
    ("objectness", "boxes", "more"),
    [
        (True, "xywh", {}),
        (False, "xyxy", {}),
        (True, "cells", {"cells": [[8, 2, 3], [16, 1, 1]]}),
    ],
)
def test_rows(objectness, boxes, more):
    rows = np.random.default_rng(0).uniform(0.1, 1, (1, ROWS, 4 + objectness + CLASSES)).astype(np.float32)
    entry = manifest("yolo_decoded", {"rows": ["rows"]}, objectness=objectness, boxes=boxes, **more)
    assert_agree(entry, {"rows": rows})
    assert_agree(entry, {"rows": rows.transpose(0, 2, 1)})


def decoded_rows():
    rng = np.random.default_rng(0)
    return rng.uniform(0, 64, (ROWS, 4)), rng.uniform(0.1, 1, ROWS), rng.integers(0, CLASSES, ROWS)


def test_decoded_boxes():
    boxes, scores, labels = decoded_rows()
    entry = manifest("boxes", {kind: [kind] for kind in ("boxes", "scores", "labels")})
    assert_agree(entry, {"boxes": boxes, "scores": scores, "labels": labels})


def test_end_to_end():
    boxes, scores, labels = decoded_rows()
    rows = np.concatenate([boxes, scores[:, None], labels[:, None]], axis=1)[None]
    assert_agree(manifest("yolo_end2end", {"rows": ["rows"]}), {"rows": rows})


def test_every_kind_is_here():
    tried = {kind for kind, _, _ in KINDS.values()} | {"yolo_decoded", "boxes", "yolo_end2end"}
    assert tried == set(DETECTORS)
