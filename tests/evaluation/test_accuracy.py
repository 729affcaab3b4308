"""The evaluator on constructed cases whose AP is known. pycocotools adds 2e-16 to what it divides by, so that
its numbers are compared with the tolerance of `approx`, a millionth of them.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from aqd_deploy.errors import AqdError
from aqd_deploy.evaluation.accuracy import NUMBERS, accuracy, match_classes
from aqd_deploy.evaluation.datasets.contract import DataSet
from aqd_deploy.evaluation.voc import average_precision, voc_average_precision

BOX, FAR = [10, 10, 20, 20], [100, 100, 20, 20]


def truth(*objects, images=(1,), categories=((3, "cat"), (90, "dog"))):
    """A document; an object is image, category, box and maybe more entries."""
    records = [
        {"id": k, "image_id": image, "category_id": category, "bbox": box, **dict(more)}
        for k, (image, category, box, *more) in enumerate(((*each, {})[:4] for each in objects), start=1)
        for more in [more[0] if more else {}]
    ]
    return {
        "images": [{"id": number} for number in images],
        "annotations": records,
        "categories": [{"id": number, "name": name} for number, name in categories],
    }


def found(*boxes):
    return [
        {"image_id": image, "category_id": category, "bbox": box, "score": score}
        for image, category, box, score in boxes
    ]


def test_ids_with_gaps_and_classes_without_objects():
    document = truth((1, 3, BOX), (1, 3, FAR))
    values = accuracy(document, found((1, 3, BOX, 0.9), (1, 90, FAR, 0.8)), [1])
    # Half the cats at precision 1: 51 of COCO's 101 points, and half of VOC's curve. No dog is there to be
    # found, so that the wrong dog counts for nothing.
    assert values["AP"] == values["AP50"] == pytest.approx(51 / 101)
    assert values["VOC"] == 0.5
    assert values["AR1"] == values["AR100"] == 0.5
    assert values["per_class"]["cat"] == pytest.approx(51 / 101)
    assert math.isnan(values["per_class"]["dog"]) and math.isnan(values["APl"])
    assert set(values) == {*NUMBERS, "per_class"}


def test_no_boxes_at_all():
    values = accuracy(truth((1, 3, BOX)), [], [1])
    assert values["AP"] == values["VOC"] == values["AR100"] == values["per_class"]["cat"] == 0.0
    assert math.isnan(values["per_class"]["dog"])
    with pytest.raises(AqdError, match="'annotations' is empty"):
        accuracy(truth(), found((1, 3, BOX, 0.9)), [1])


def test_boxes_in_a_crowd_count_for_nothing():
    """Ten boxes within a crowd, none of which is an object's, before one that is right."""
    crowd = (1, 3, [50, 50, 100, 100], {"iscrowd": 1})
    boxes = found(*((1, 3, [50 + 5 * k, 60, 10, 10], 0.9) for k in range(10)), (1, 3, BOX, 0.5))
    values = accuracy(truth((1, 3, BOX), crowd), boxes, [1])
    assert values["AP"] == pytest.approx(1.0) and values["VOC"] == 1.0
    # Without the crowd the tenth of precision is what is left at the one recall that there is.
    values = accuracy(truth((1, 3, BOX)), boxes, [1])
    assert (values["AP"], values["VOC"]) == pytest.approx((1 / 11, 1 / 11))


def test_difficult_objects_need_not_be_found_and_may_be():
    difficult = {"iscrowd": 1, "difficult": 1}
    document = truth((1, 3, BOX), (1, 3, FAR, difficult))
    for boxes in (found((1, 3, BOX, 0.9)), found((1, 3, BOX, 0.5), (1, 3, FAR, 0.9))):
        values = accuracy(document, boxes, [1])
        assert values["AP"] == pytest.approx(1.0) and values["VOC"] == 1.0
    # VOC compares with a difficult object like with any other: a tenth of it is not the object.
    tenth = [*FAR[:2], 20, 2]
    assert accuracy(document, found((1, 3, tenth, 0.9), (1, 3, BOX, 0.5)), [1])["VOC"] == 0.5


def test_images_that_were_not_run_do_not_count():
    document = truth((1, 3, BOX), (2, 3, BOX), images=(1, 2))
    assert accuracy(document, found((1, 3, BOX, 0.9)), [1])["VOC"] == 1.0
    assert accuracy(document, found((1, 3, BOX, 0.9)), [1, 2])["VOC"] == 0.5


def test_a_second_box_on_an_object_is_wrong():
    """VOC gives a box to the object that it overlaps most, taken or not; COCO to the best that is free."""
    near = [12, 10, 20, 20]
    document = truth((1, 3, BOX), (1, 3, [14, 10, 20, 20]))
    boxes = found((1, 3, BOX, 0.9), (1, 3, [11.9, 10, 20, 20], 0.8))
    values = accuracy(document, boxes, [1])
    # The second box overlaps the first object most (18.1/21.9 against 17.9/22.1).
    assert values["VOC"] == 0.5
    assert values["AP50"] == 1.0
    assert accuracy(document, found((1, 3, BOX, 0.9), (1, 3, near, 0.8)), [1])["AP50"] == 1.0


@pytest.mark.parametrize(
    ("right", "count", "expected"),
    [
        ([1, 1], 2, 1.0),
        ([0, 1], 1, 0.5),
        # Precisions 1, 1/2, 2/3, 2/4, 3/5: at recalls 1/4, 2/4, 3/4 the best from there on.
        ([1, 0, 1, 0, 1], 4, (1 + 2 / 3 + 3 / 5) / 4),
        ([0, 0, 1, 1, 1], 3, 3 / 5),
        ([], 3, 0.0),
    ],
)
def test_the_area_under_the_curve(right, count, expected):
    assert average_precision(np.array(right, bool), count) == pytest.approx(expected)


def test_no_object_no_area():
    assert math.isnan(average_precision(np.array([True]), 0))


def test_voc_sorts_over_images():
    document = truth((1, 3, BOX), (2, 3, BOX), images=(1, 2))
    boxes = found((1, 3, FAR, 0.3), (1, 3, BOX, 0.6), (2, 3, BOX, 0.9), (2, 3, FAR, 0.7))
    # By score: right, wrong, right, wrong.
    assert voc_average_precision(document, boxes)[3] == pytest.approx((1 + 2 / 3) / 2)


def dataset(names, complete=True):
    return DataSet("coco", truth(categories=list(enumerate(names, start=5))), {}, "", complete)


def test_classes_and_categories_are_the_same_ones():
    document, ids = match_classes(dataset(["cat", "dog"]), ["dog", "cat"])
    assert ids == [6, 5] and [each["name"] for each in document["categories"]] == ["cat", "dog"]
    with pytest.raises(AqdError, match=r"1 of 3 categories .* no classes.*got cow; valid: its 2 classes"):
        match_classes(dataset(["cat", "dog", "cow"]), ["dog", "cat"])
    with pytest.raises(AqdError, match=r"1 of 2 classes .* no categories.*got cow; valid: the 1 categories"):
        match_classes(dataset(["cat"]), ["cat", "cow"])


def test_categories_that_do_not_occur_are_added_where_not_all_are_told():
    document, ids = match_classes(dataset(["dog"], complete=False), ["cat", "dog"])
    assert ids == [6, 5] and document["categories"][-1] == {"id": 6, "name": "cat"}
    with pytest.raises(AqdError, match="no classes of the network"):
        match_classes(dataset(["cow"], complete=False), ["cat", "dog"])
