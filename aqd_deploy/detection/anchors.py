"""Anchors that suit a training set: k-means over the sides of its boxes, by overlap (Redmon and Farhadi 2017,
"YOLO9000", section 2, "Dimension Clusters").
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from aqd_deploy.errors import AqdError
from aqd_deploy.schema import SchemaError, anything, list_of, number, one_of, table, whole

RESTARTS = 8
MOST_ROUNDS = 300
BLOCK = 1 << 16

_SIDE = whole(1, 1 << 20)
_SCHEMA = table({
    "images": list_of(table({"id": anything, "width": _SIDE, "height": _SIDE})),
    "annotations": list_of(table(
        {"image_id": anything, "bbox": list_of(number(-1e9, 1e9), 4, 4)},
        {"iscrowd": one_of(0, 1, False, True)},
    )),
})  # fmt: skip


@dataclass(frozen=True)
class Anchors:
    """`sides` float64 [k, 2] (width, height) by rising area; `boxes` int64 [k], how many boxes each suits
    best; `overlap`, the mean IoU of a box with that anchor, both about one centre.
    """

    sides: np.ndarray
    boxes: np.ndarray
    overlap: float


def letterboxed_sides(document: dict[str, Any], height: int, width: int) -> np.ndarray:
    """The sides, float64 [n, 2] (width, height) in pixels, that the boxes of a COCO annotations document have
    in images that are letterboxed to this height and width. Crowds and empty boxes are left out.

    Raises AqdError where the document lacks the images' sizes, or a box is in no image.
    """
    try:
        _SCHEMA(document, "")
    except SchemaError as error:
        raise error.of("the annotations document", AqdError) from error
    factors = {each["id"]: min(height / each["height"], width / each["width"]) for each in document["images"]}
    sides = []
    for record in document["annotations"]:
        if record["image_id"] not in factors:
            raise AqdError(
                "an annotation is of an image that the document does not have", received=record["image_id"],
                valid="an id of its images",
            )  # fmt: skip
        _, _, box_width, box_height = record["bbox"]
        if not record.get("iscrowd", 0) and box_width > 0 and box_height > 0:
            factor = factors[record["image_id"]]
            sides.append((box_width * factor, box_height * factor))
    return np.array(sides, np.float64).reshape(-1, 2)


def find_anchors(sides: np.ndarray, count: int, seed: int = 0) -> Anchors:
    """The `count` anchors of the largest mean overlap that k-means finds in sides, float64 [n, 2], from
    `RESTARTS` starts: a box belongs to the anchor whose IoU with it is the largest, an anchor is the mean of
    its boxes. A start is drawn as in k-means++, with the distance 1 − IoU.

    Raises AqdError where there are fewer different boxes than anchors.
    """
    different = len(np.unique(sides, axis=0))
    if different < count:
        raise AqdError(
            "there are fewer different boxes than anchors", received=f"{different} for {count} anchors",
            valid=f"-k up to {different}" if different else "annotations with boxes that are not empty",
        )  # fmt: skip
    rng = np.random.default_rng(seed)
    tried = [_settled(sides, _start(sides, count, rng)) for _ in range(RESTARTS)]
    return max(tried, key=lambda each: each.overlap)


def _start(sides: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    chosen = sides[rng.integers(len(sides))][None]
    distance = 1 - _best(sides, chosen)[1]
    while len(chosen) < count:
        # Boxes that equal a chosen one have a distance of 0, but for rounding.
        distance[distance < 1e-12] = 0
        another = sides[rng.choice(len(sides), p=distance / distance.sum())][None]
        chosen = np.concatenate([chosen, another])
        distance = np.minimum(distance, 1 - _best(sides, another)[1])
    return chosen


def _settled(sides: np.ndarray, anchors: np.ndarray) -> Anchors:
    """Rounds of k-means until nothing moves; the best of all rounds, as means need not raise an IoU."""
    found, assigned = [], None
    for _ in range(MOST_ROUNDS):
        best, overlap = _best(sides, anchors)
        boxes = np.bincount(best, minlength=len(anchors))
        order = np.argsort(anchors.prod(axis=1), kind="stable")
        found.append(Anchors(anchors[order], boxes[order], float(overlap.mean())))
        if assigned is not None and np.array_equal(best, assigned):
            break
        assigned = best
        sums = np.stack([np.bincount(best, sides[:, k], len(anchors)) for k in range(2)], axis=1)
        # One that no box belongs to stays.
        anchors = np.where(boxes[:, None] > 0, sums / np.maximum(boxes, 1)[:, None], anchors)
    return max(found, key=lambda each: each.overlap)


def _best(sides: np.ndarray, anchors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each box the anchor of the largest IoU, the first of several, int64 [n], and that IoU [n]."""
    parts = [(overlap.argmax(axis=1), overlap.max(axis=1)) for overlap in _overlaps(sides, anchors)]
    best, overlap = (np.concatenate(each) for each in zip(*parts, strict=True))
    return best, overlap


def _overlaps(sides: np.ndarray, anchors: np.ndarray) -> Iterator[np.ndarray]:
    """IoU [n, k] of boxes and anchors about one centre, in blocks of boxes."""
    for first in range(0, len(sides), BLOCK):
        block = sides[first : first + BLOCK, None]
        common = np.minimum(block, anchors).prod(axis=2)
        yield common / (block.prod(axis=2) + anchors.prod(axis=1) - common)
