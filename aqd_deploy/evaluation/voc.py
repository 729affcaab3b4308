"""Average precision as Pascal VOC defines it since 2010: at IoU 0.5, all points of the curve."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np

LEAST_IOU = 0.5
_Records = list[dict[str, Any]]


def voc_average_precision(document: dict[str, Any], results: _Records) -> dict[int, float]:
    """AP by category id, each in 0..1, NaN where there is no object.

    `document` is a COCO annotations document, `results` COCO result records of its images. As in the VOC
    development kit: by falling score each box belongs to the object of its class and image that it overlaps
    most; it is right where their IoU is at least 0.5 and no box before it had that object, else wrong. Boxes
    that belong to an object that is `difficult` or a crowd (`iscrowd`; there the overlap is the share of the
    box) are left out, and such objects need not be found. AP is the area under the curve of precision over
    recall, of which each precision is the largest at this recall or a higher one (Everingham et al., 2010).
    """
    objects, boxes = _grouped(document["annotations"]), _grouped(results)
    return {
        category["id"]: _of_category(objects[category["id"]], boxes[category["id"]])
        for category in document["categories"]
    }


def mean_of(values: Iterable[float]) -> float:
    """The mean of those that are numbers; NaN where none is."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def average_precision(right: np.ndarray, count: int) -> float:
    """The area under the curve for boxes by falling score: `right`, bool [n], and `count` objects."""
    if not count:
        return math.nan
    found = np.cumsum(right)
    precision = found / np.arange(1, len(right) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    # Recall grows by 1/count at each box that is right.
    return float(best[right].sum() / count)


def _grouped(records: _Records) -> dict[int, dict[Any, _Records]]:
    """By category and image."""
    found: dict[int, dict[Any, _Records]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        found[record["category_id"]][record["image_id"]].append(record)
    return found


def _of_category(objects: dict[Any, _Records], boxes: dict[Any, _Records]) -> float:
    scores, states = [np.zeros(0)], [np.zeros(0, int)]
    for image, found in boxes.items():
        score = np.array([record["score"] for record in found])
        order = np.argsort(-score, kind="stable")
        scores.append(score[order])
        states.append(_states([found[k]["bbox"] for k in order], objects.get(image, [])))
    order = np.argsort(-np.concatenate(scores), kind="stable")
    state = np.concatenate(states)[order]
    count = sum(not _left_out(each) for of_image in objects.values() for each in of_image)
    return average_precision(state[state != _IGNORED] == _RIGHT, count)


_WRONG, _RIGHT, _IGNORED = 0, 1, 2


def _states(boxes: list[list[float]], objects: _Records) -> np.ndarray:
    """Of each box of an image, by falling score, whether it is right."""
    states = np.full(len(boxes), _WRONG)
    if not objects:
        return states
    from pycocotools import mask

    crowds = [int(bool(each.get("iscrowd")) and not each.get("difficult")) for each in objects]
    overlaps = mask.iou(np.array(boxes, float), np.array([each["bbox"] for each in objects], float), crowds)
    taken = set()
    for index, overlap in enumerate(overlaps):
        best = int(overlap.argmax())
        if overlap[best] < LEAST_IOU:
            continue
        if _left_out(objects[best]):
            states[index] = _IGNORED
        elif best not in taken:
            taken.add(best)
            states[index] = _RIGHT
    return states


def _left_out(record: dict[str, Any]) -> bool:
    return bool(record.get("difficult") or record.get("iscrowd"))
