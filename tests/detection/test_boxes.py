"""Boxes that a tail has decoded."""

from __future__ import annotations

import numpy as np
import pytest

from aqd_deploy.detection.decode import decode
from aqd_deploy.detection.images import Placement
from aqd_deploy.errors import ModelFileError, ShapeError

PLACEMENT = Placement(64, 64, 0, 0, 64, 64)
BOXES = np.array([[1, 2, 11, 12], [20, 20, 40, 50], [1, 2, 11, 12], [5, 5, 5, 9]], np.float32)
SCORES = np.array([0.5, 0.9, 0.04, 0.8], np.float32)
LABELS = np.array([1, 0, 7, 0], np.int64)


def manifest(**detector):
    entry = {
        "kind": "boxes", "classes": ["cat", "dog"],
        "outputs": {"boxes": ["b"], "scores": ["s"], "labels": ["l"]},
        "score_threshold": 0.05, "nms_iou": 1.0, "max_detections": 100, "pre_nms": 1000, **detector,
    }  # fmt: skip
    return {"detector": entry}


def read(boxes=BOXES, scores=SCORES, labels=LABELS, **detector):
    return decode({"b": boxes, "s": scores, "l": labels}, manifest(**detector), PLACEMENT)


def test_what_is_above_the_threshold_comes_by_score():
    """Neither the label of a box below it counts, nor a box without an area."""
    found = read()
    assert found.boxes.tolist() == [[20, 20, 40, 50], [1, 2, 11, 12]]
    assert found.scores.tolist() == pytest.approx([0.9, 0.5]) and found.labels.tolist() == [0, 1]


def test_one_class_needs_no_labels():
    without = {"boxes": ["b"], "scores": ["s"]}
    found = read(outputs=without, classes=["cat"])
    assert found.scores.tolist() == pytest.approx([0.9, 0.5]) and found.labels.tolist() == [0, 0]
    with pytest.raises(ModelFileError, match="several classes and no labels; got 2 classes"):
        read(outputs=without)


def test_a_batch_of_one_may_stand_in_front():
    found = read(BOXES[None], SCORES[None], LABELS[None].astype(np.float32))
    assert found.labels.tolist() == [0, 1] and found.labels.dtype == np.int64


def test_only_so_many_go_on():
    assert len(read(pre_nms=1)) == 1
    assert len(read(max_detections=1)) == 1


def test_they_are_suppressed_again_where_that_is_asked_for():
    boxes, scores, labels = BOXES[[0, 2]], SCORES[[0, 1]], LABELS[[1, 1]]
    assert len(read(boxes, scores, labels)) == 2
    assert read(boxes, scores, labels, nms_iou=0.5).scores.tolist() == pytest.approx([0.9])


def test_no_boxes_are_no_detections():
    assert len(read(BOXES[:0], SCORES[:0], LABELS[:0])) == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"boxes": BOXES[:, :3]}, r"output b has another shape.*got \[4, 3\]; valid: \[N, 4\]"),
        ({"boxes": BOXES[None, None]}, "output b has another shape"),
        ({"scores": np.stack([SCORES, SCORES])}, r"output s has another shape.*got \[2, 4\]; valid: \[N\]"),
        ({"labels": LABELS[:3]}, "4 boxes, 4 scores, 3 labels"),
        ({"labels": LABELS + 1}, "output l has a label that no class has; got 2.0; valid: 0 to 1"),
        ({"labels": LABELS + 0.5}, "got 0.5"),
    ],
)
def test_outputs_that_do_not_fit(change, words):
    with pytest.raises(ShapeError, match=words):
        read(**change)


def test_an_output_that_is_missing():
    with pytest.raises(ShapeError, match="manifest names is missing; got l; valid: b, s"):
        decode({"b": BOXES, "s": SCORES}, manifest(), PLACEMENT)
