"""Anchors of boxes whose clusters are known, and what boxes are in letterboxed images."""

import numpy as np
import pytest

from aqd_deploy.detection.anchors import find_anchors, letterboxed_sides
from aqd_deploy.errors import AqdError

CLUSTERS = np.array([[20.0, 30.0], [90.0, 40.0], [60.0, 160.0]])


def spread_boxes():
    """100, 200 and 300 boxes whose sides differ from those of a cluster by at most 5 %."""
    rng = np.random.default_rng(5)
    parts = [
        sides * rng.uniform(0.95, 1.05, (100 * count, 2)) for count, sides in enumerate(CLUSTERS, start=1)
    ]
    return np.concatenate(parts)


def document(*boxes, **of_box):
    return {
        "images": [{"id": 1, "width": 200, "height": 100}, {"id": "b", "width": 50, "height": 400}],
        "annotations": [
            {"image_id": image, "bbox": [3, 4, width, height], **of_box} for image, width, height in boxes
        ],
    }


@pytest.mark.parametrize("seed", range(5))
def test_clusters_that_stand_apart_are_found(seed):
    boxes = spread_boxes()
    shuffled = np.random.default_rng(seed).permutation(boxes)
    found = find_anchors(shuffled, 3, seed)
    means = [boxes[first:last].mean(axis=0) for first, last in ((0, 100), (100, 300), (300, 600))]
    np.testing.assert_allclose(found.sides, means, rtol=1e-12)
    assert found.boxes.tolist() == [100, 200, 300]
    assert 0.93 < found.overlap < 1


def test_the_overlap_is_the_mean_iou_about_one_centre():
    found = find_anchors(np.array([[10.0, 10.0], [10.0, 20.0]]), 1)
    assert found.boxes.tolist() == [2]
    # Either of the boxes, whose IoU with the other is 1/2, or their mean, 10 x 15.
    candidates = {(10, 10): 0.75, (10, 20): 0.75, (10, 15): (10 / 15 + 15 / 20) / 2}
    assert found.overlap == pytest.approx(max(candidates.values()))
    assert candidates[tuple(found.sides[0])] == found.overlap


def test_more_anchors_overlap_more():
    sides = np.random.default_rng(1).uniform(5, 200, (500, 2))
    overlaps = [find_anchors(sides, count).overlap for count in (1, 2, 5, 9)]
    assert overlaps == sorted(overlaps) and overlaps[0] < overlaps[-1]
    exact = find_anchors(sides[:4], 4)
    assert exact.overlap == pytest.approx(1)
    assert sorted(map(tuple, exact.sides)) == sorted(map(tuple, sides[:4]))


def test_boxes_are_as_large_as_in_the_networks_image():
    sides = letterboxed_sides(document((1, 20, 30), ("b", 10, 100)), 64, 128)
    np.testing.assert_allclose(sides, [[20 * 0.64, 30 * 0.64], [10 * 0.16, 100 * 0.16]])


def test_crowds_and_empty_boxes_are_left_out():
    empty = letterboxed_sides(document((1, 0, 30), (1, 20, 0)), 64, 64)
    crowds = letterboxed_sides(document((1, 20, 30), iscrowd=1), 64, 64)
    assert empty.shape == crowds.shape == (0, 2)


@pytest.mark.parametrize(
    ("boxes", "count", "message"),
    [([], 1, "not empty"), ([(2, 3), (2, 3)], 2, "-k up to 1"), ([(2, 3), (3, 2)], 3, "2 for 3 anchors")],
)
def test_fewer_boxes_than_anchors_are_an_error(boxes, count, message):
    with pytest.raises(AqdError, match=message):
        find_anchors(np.array(boxes, np.float64).reshape(-1, 2), count)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["images"][1].pop("width"), r"no images\[1\].width"),
        (lambda d: d.pop("annotations"), "no annotations"),
        (lambda d: d["annotations"][0].update(image_id=7), "image that the document does not have"),
        (lambda d: d["annotations"][0].update(bbox=[0, 0, 1]), r"annotations\[0\].bbox"),
    ],
)
def test_a_document_without_what_is_needed_is_refused(change, message):
    given = document((1, 20, 30))
    change(given)
    with pytest.raises(AqdError, match=message):
        letterboxed_sides(given, 64, 64)
