"""COCO AP of hand-made results."""

from __future__ import annotations

import copy
import json
import math

import numpy as np
import pytest

from aqd_deploy.errors import AqdError
from aqd_deploy.evaluation.coco import evaluate

BOXES = [[10, 10, 20, 20], [50, 50, 40, 40], [5, 80, 100, 100]]  # small, medium, large


def document(first_id=1):
    return {
        "images": [{"id": 0, "width": 200, "height": 200}, {"id": 1, "width": 200, "height": 200}],
        "categories": [{"id": 0, "name": "a"}, {"id": 5, "name": "b"}],
        "annotations": [
            {
                "id": first_id + 3 * image + k, "image_id": image, "category_id": 5 * (k % 2), "bbox": box,
                "area": box[2] * box[3], "iscrowd": 0,
            }
            for image in (0, 1)
            for k, box in enumerate(BOXES)
        ],
    }  # fmt: skip


def perfect():
    return [
        {key: record[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.9}
        for record in document()["annotations"]
    ]


def test_perfect_results():
    assert evaluate(document(), perfect()) == dict.fromkeys(("AP", "AP50", "AP75", "APs", "APm", "APl"), 1.0)


def test_an_annotation_id_of_zero_counts_too():
    assert evaluate(document(first_id=0), perfect())["AP"] == 1.0


def test_half_found():
    """Of each class half the objects, all found ones right: precision 1 up to recall 1/2, that is 51 of 101
    points."""
    half = [record for record in perfect() if record["image_id"] == 0]
    assert evaluate(document(), half)["AP50"] == pytest.approx(51 / 101)


def test_images_that_were_not_run_do_not_count():
    half = [record for record in perfect() if record["image_id"] == 0]
    assert evaluate(document(), half, [0])["AP"] == 1.0
    assert evaluate(document(), half, [0, 1])["AP"] == evaluate(document(), half)["AP"] < 1.0
    assert evaluate(document(), [], [1])["AP"] == 0.0
    with pytest.raises(AqdError, match=r"1 image_ids.*got 0; valid: 1"):
        evaluate(document(), half, [1])
    with pytest.raises(AqdError, match="no images of what was run"):
        evaluate(document(), [], [7])
    bare = {**document(), "images": [*document()["images"], {"id": 7}]}
    with pytest.raises(AqdError, match="no annotations of what was run"):
        evaluate(bare, [], [7])


def test_ids_of_two_kinds():
    mixed = {**document(), "images": [{"id": 0}, {"id": 1}, {"id": "b"}]}
    with pytest.raises(AqdError, match="some are texts"):
        evaluate(mixed, perfect())


def test_a_loose_box_counts_at_low_overlap_only():
    loose = perfect()
    for record in loose:
        record["bbox"] = [record["bbox"][0], record["bbox"][1], record["bbox"][2], record["bbox"][3] * 0.7]
    values = evaluate(document(), loose)
    assert values["AP50"] == 1.0 and values["AP75"] == 0.0
    assert values["AP"] == pytest.approx(0.5)  # 0.50 to 0.70 of the ten thresholds


def test_wrong_classes_give_zero():
    wrong = [{**record, "category_id": 5 - record["category_id"]} for record in perfect()]
    assert evaluate(document(), wrong)["AP"] == 0.0


def test_sizes_without_objects_are_nan():
    only_small = document()
    only_small["annotations"] = [a for a in only_small["annotations"] if a["area"] < 1000]
    values = evaluate(only_small, [r for r in perfect() if r["bbox"][2] == 20])
    assert values["APs"] == 1.0 and math.isnan(values["APm"]) and math.isnan(values["APl"])


def test_empty_results_give_zero():
    assert evaluate(document(), []) == dict.fromkeys(("AP", "AP50", "AP75", "APs", "APm", "APl"), 0.0)


def test_silent_and_without_side_effects(tmp_path, capfd):
    annotations, results = document(), perfect()
    before = copy.deepcopy((annotations, results))
    evaluate(annotations, results)
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(annotations))
    assert evaluate(path, results)["AP"] == 1.0
    assert (annotations, results) == before
    assert capfd.readouterr() == ("", "")


def test_numbers_of_numpy_and_a_crowd_that_is_false():
    truth, found = document(), perfect()
    for record in truth["annotations"]:
        record["iscrowd"] = False
    for record in found:
        record.update(image_id=np.int64(record["image_id"]), score=np.float32(0.9))
        record["bbox"] = list(np.float32(record["bbox"]))
    assert evaluate(truth, found)["AP"] == 1.0


def test_optional_fields_may_be_missing():
    bare = document()
    for record in bare["annotations"]:
        del record["area"], record["iscrowd"]
    assert evaluate(bare, perfect())["APs"] == 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d, r: r[0].update(image_id=77), "1 image_ids.*77.*0, 1"),
        (lambda d, r: r[0].update(category_id=3), "1 category_ids.*3.*0, 5"),
        (lambda d, r: r[0].pop("score"), r"no results\[0\].score"),
        (lambda d, r: d.pop("images"), "no list 'images'"),
        (lambda d, r: d.update(annotations=[]), "'annotations' is empty"),
        (lambda d, r: d["annotations"][0].update(id=2), "not unique"),
        (lambda d, r: d["annotations"][0].pop("bbox"), r"no annotations\[0\].bbox"),
        (lambda d, r: r[0].update(bbox=[1, 2, 3]), "4 values"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    annotations, results = document(), perfect()
    change(annotations, results)
    with pytest.raises(AqdError, match=message):
        evaluate(annotations, results)


def test_bad_files(tmp_path):
    with pytest.raises(AqdError, match=r"no such annotations file.*none\.json"):
        evaluate(tmp_path / "none.json", [])
    with pytest.raises(AqdError, match="a folder is no annotations file"):
        evaluate(tmp_path, [])
    path = tmp_path / "a.json"
    path.write_text("{")
    with pytest.raises(AqdError, match="not JSON"):
        evaluate(path, [])
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(AqdError, match="not JSON"):
        evaluate(path, [])
    path.write_text("[1]")
    with pytest.raises(AqdError, match="not a COCO document"):
        evaluate(path, [])
