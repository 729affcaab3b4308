"""COCO results JSON and drawings."""

from __future__ import annotations

import numpy as np

from aqd_deploy.detection.decode import Detections
from aqd_deploy.detection.draw import draw
from aqd_deploy.detection.results import coco_results

FOUND = Detections(
    np.array([[1, 2, 4, 8], [0, 0, 2.5, 2]], np.float32), np.array([0.75, 0.5], np.float32), np.array([1, 0])
)


def test_results_are_x_y_width_height():
    assert coco_results(7, FOUND) == [
        {"image_id": 7, "category_id": 1, "bbox": [1.0, 2.0, 3.0, 6.0], "score": 0.75},
        {"image_id": 7, "category_id": 0, "bbox": [0.0, 0.0, 2.5, 2.0], "score": 0.5},
    ]
    assert [record["category_id"] for record in coco_results(7, FOUND, [18, 90])] == [90, 18]


def test_small_images_are_enlarged_and_large_ones_are_not():
    assert draw(np.zeros((80, 160, 3), np.uint8), FOUND, "ab").size == (480, 240)
    assert draw(np.zeros((500, 700, 3), np.uint8), FOUND, "ab").size == (700, 500)
    assert draw(np.zeros((80, 160, 3), np.uint8), FOUND, "ab", factor=1).size == (160, 80)


def test_the_frame_lies_on_the_box_and_the_image_stays_as_it_was():
    image = np.full((160, 160, 3), 255, np.uint8)
    one = Detections(np.array([[40, 50, 100, 120]], np.float32), np.array([0.9], np.float32), np.array([0]))
    drawn = np.asarray(draw(image, one, ["name"]))
    changed = (drawn != 255).any(axis=2)
    assert changed[150, 120:300].all() and changed[359, 120:300].all()  # top and bottom edge, times 3
    assert changed[150:360, 120].all() and changed[150:360, 299].all()
    assert not changed[160:350, 130:290].any()
    assert changed[134:148, 120:180].mean() > 0.5  # the label stands above the box
    assert (image == 255).all()


def test_labels_stay_inside_the_image_and_apart():
    image = np.full((160, 160, 3), 255, np.uint8)
    corners = np.array([[0, 0, 160, 160], [0, 0, 160, 159], [150, 150, 160, 160]], np.float32)
    several = Detections(corners, np.array([0.9, 0.8, 0.7], np.float32), np.array([0, 1, 2]))
    alone = [
        Detections(corners[k : k + 1], several.scores[k : k + 1], several.labels[k : k + 1]) for k in range(3)
    ]
    fill = [(230, 25, 75), (60, 180, 75), (255, 225, 25)]
    together = np.asarray(draw(image, several, ["zero", "one", "two"]))
    for colour, one in zip(fill, alone, strict=True):
        area = (np.asarray(draw(image, one, ["zero", "one", "two"])) == colour).all(axis=2).sum()
        assert (together == colour).all(axis=2).sum() > 0.3 * area > 0


def test_nothing_found_draws_nothing():
    none = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
    image = np.random.default_rng(0).integers(0, 256, size=(500, 500, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(draw(image, none, [])), image)
    assert coco_results(1, none) == []
