"""Class-wise NMS against brute force."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aqd_deploy.detection import nms
from aqd_deploy.detection.nms import class_wise_nms


def overlap(a, b):
    """Exact IoU of integer boxes; 0 where both are empty."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    return Fraction(both, union) if union else Fraction(0)


def brute_force(boxes, scores, labels, iou, most):
    """Class by class, pair by pair, then the best of all classes."""
    kept = []
    for label in set(labels):
        own = sorted((k for k in range(len(boxes)) if labels[k] == label), key=lambda k: (-scores[k], k))
        chosen = []
        for k in own:
            if all(overlap(boxes[k], boxes[other]) <= Fraction(iou) for other in chosen):
                chosen.append(k)
        kept += chosen
    return sorted(kept, key=lambda k: (-scores[k], k))[:most]


corner, extent = st.integers(0, 12), st.integers(0, 8)
entry = st.tuples(corner, corner, extent, extent, st.integers(0, 6), st.integers(0, 2))


@given(
    st.lists(entry, max_size=25),
    st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]),
    st.integers(1, 30),
    st.sampled_from([1, 4, 256]),
)
def test_against_brute_force(entries, iou, most, block):
    boxes = [(x, y, x + w, y + h) for x, y, w, h, _, _ in entries]
    scores = [score / 8 for *_, score, _ in entries]
    labels = [label for *_, label in entries]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nms, "BLOCK", block)
        kept = class_wise_nms(
            np.array(boxes, np.float32).reshape(-1, 4),
            np.array(scores),
            np.array(labels, np.int64),
            iou,
            most,
        )
    assert kept.tolist() == brute_force(boxes, scores, labels, iou, most)


def test_nothing_in_nothing_out():
    kept = class_wise_nms(np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64), 0.5, 10)
    assert kept.dtype == np.int64 and len(kept) == 0


def test_an_overlap_of_exactly_the_limit_stays():
    boxes = np.array([[0, 0, 2, 1], [1, 0, 3, 1]], np.float32)  # IoU 1/3
    scores, labels = np.array([0.9, 0.8]), np.array([0, 0])
    assert class_wise_nms(boxes, scores, labels, 1 / 3 + 1e-9, 9).tolist() == [0, 1]
    assert class_wise_nms(boxes, scores, labels, 0.3, 9).tolist() == [0]
    assert class_wise_nms(boxes, scores, np.array([0, 1]), 0.3, 9).tolist() == [0, 1]
