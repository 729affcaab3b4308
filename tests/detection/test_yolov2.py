"""YOLOv2's map against a decoding cell by cell, as floats and as integers."""

import math

import numpy as np
import pytest

from aqd_deploy.detection.decode import Postprocess
from aqd_deploy.detection.images import Placement
from aqd_deploy.detection.maps import OutputMap

ANCHORS = [[10.0, 14.0], [30.0, 20.0]]
CLASSES, ROWS, COLUMNS, STRIDE = 3, 4, 5, 32
PLACEMENT = Placement(COLUMNS * STRIDE, ROWS * STRIDE, 0, 0, COLUMNS * STRIDE, ROWS * STRIDE)


def manifest(threshold, scale=None):
    outputs = {} if scale is None else {"outputs": {"map_p5": {"scale": scale}}}
    return {
        "detector": {
            "kind": "yolov2", "classes": list("abc"), "strides": [STRIDE], "outputs": {"map": ["map_p5"]},
            "anchors": {"sides": [ANCHORS]}, "score_threshold": threshold, "nms_iou": 1.0,
            "max_detections": 1000, "pre_nms": 1000,
        },
        **outputs,
    }  # fmt: skip


def expected(values, threshold):
    """Score, label, x1, y1, x2, y2 of every class of every anchor of every cell, sorted by falling score."""
    found = []
    for k, (width, height) in enumerate(ANCHORS):
        for row in range(ROWS):
            for column in range(COLUMNS):
                x, y, w, h, sure, *logits = (float(v) for v in values[8 * k : 8 * k + 8, row, column])
                total = sum(math.exp(logit) for logit in logits)
                cx = (column + 1 / (1 + math.exp(-x))) * STRIDE
                cy = (row + 1 / (1 + math.exp(-y))) * STRIDE
                dx, dy = width * math.exp(w) / 2, height * math.exp(h) / 2
                for label, logit in enumerate(logits):
                    score = math.exp(logit) / total / (1 + math.exp(-sure))
                    if score > threshold:
                        found.append((score, label, cx - dx, cy - dy, cx + dx, cy + dy))
    return sorted(found, reverse=True)


@pytest.mark.parametrize("threshold", [0.01, 0.3])
@pytest.mark.parametrize("kind", ["float", "integer", "integer with a scale a channel"])
def test_boxes_are_those_of_every_cell(kind, threshold):
    """To 1e-4 pixels: boxes are given as float32."""
    rng = np.random.default_rng(3)
    values = rng.normal(size=(16, ROWS, COLUMNS)) * 1.5
    scale = None
    given = values
    if kind != "float":
        scales = np.full(16, 1e-3) if kind == "integer" else rng.uniform(1e-3, 2e-3, 16)
        given = np.rint(values / scales[:, None, None]).astype(np.int32)
        values = given * scales[:, None, None]
        scale = 1e-3 if kind == "integer" else scales.tolist()
    wanted = expected(values, threshold)
    assert wanted
    found = Postprocess.from_manifest(manifest(threshold, scale))({"map_p5": given[None]}, PLACEMENT)
    assert len(found) == len(wanted)
    rows = np.array(wanted)
    rows[:, 2:] = rows[:, 2:].clip(0, [160, 128, 160, 128])
    # Equal scores may stand in any order.
    order = np.lexsort((rows[:, 0], rows[:, 1])), np.lexsort((found.scores, found.labels))
    np.testing.assert_array_equal(found.labels[order[1]], rows[order[0], 1])
    np.testing.assert_allclose(found.scores[order[1]], rows[order[0], 0], rtol=1e-5)
    np.testing.assert_allclose(found.boxes[order[1]], rows[order[0], 2:], rtol=1e-5, atol=1e-4)


def test_what_cannot_reach_the_threshold_never_becomes_a_real_number(monkeypatch):
    """σ(η·10⁻³) > 0.3 from η = −847 on: ln(0.3/0.7) = −0.8473."""
    taken, take = [], OutputMap.take

    def counted(self, channel, y, x):
        taken.append((self.values[channel, y, x].tolist(), len(y)))
        return take(self, channel, y, x)

    monkeypatch.setattr(OutputMap, "take", counted)
    values = np.full((1, 16, ROWS, COLUMNS), 5000, np.int32)
    values[0, [4, 12]] = -848
    values[0, 4, 1, 2] = values[0, 12, 3, 0] = -847
    Postprocess.from_manifest(manifest(0.3, 1e-3))({"map_p5": values}, PLACEMENT)
    assert taken[0] == ([-847, -847], 2)
    assert {count for _, count in taken} == {2}


def test_boxes_of_one_class_suppress_each_other_and_others_do_not():
    """Both anchors of a cell, made one size, have the same box."""
    values = np.full((1, 16, ROWS, COLUMNS), -9.0)
    values[0, :4, 1, 1] = values[0, 8:12, 1, 1] = 0
    values[0, 8:12, 1, 1] = [0, 0, math.log(10 / 30), math.log(14 / 20)]
    values[0, 4, 1, 1], values[0, 12, 1, 1] = 3, 2
    settings = manifest(0.3)
    settings["detector"]["nms_iou"] = 0.45
    for best, kept in ((0, 1), (2, 2)):
        values[0, 5:8, 1, 1], values[0, 13:16, 1, 1] = np.eye(3)[0] * 9, np.eye(3)[best] * 9
        found = Postprocess.from_manifest(settings)({"map_p5": values}, PLACEMENT)
        assert len(found) == kept and found.labels.tolist() == [0, best][:kept]


def test_nothing_is_found_where_nothing_is_sure():
    values = np.full((1, 16, ROWS, COLUMNS), -9.0)
    assert len(Postprocess.from_manifest(manifest(0.05))({"map_p5": values}, PLACEMENT)) == 0
