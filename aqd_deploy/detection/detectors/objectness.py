"""Scores that are a product: how likely a place has an object, and of which class it is then."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aqd_deploy.detection.maps import OutputMap, sigmoid


@dataclass(frozen=True)
class Scored:
    """Anchor, row, column and label int64 [n], and scores float64 [n], by falling score."""

    anchor: np.ndarray
    y: np.ndarray
    x: np.ndarray
    label: np.ndarray
    scores: np.ndarray


def scored_places(objectness: OutputMap, classes: OutputMap, least: float, most: int) -> Scored:
    """The `most` best of σ(objectness)·σ(class) > `least`.

    `objectness` [A, H, W] and `classes` [A·C, H, W] are logits. Places whose objectness alone is not above
    `least`, which integers decide, are not looked at further.
    """
    places = np.unravel_index(objectness.above(least), objectness.values.shape)
    anchor, y, x = places
    count = len(classes.values) // len(objectness.values)
    logits = classes.take(anchor * count + np.arange(count)[:, None], y, x)
    scores = sigmoid(logits) * sigmoid(objectness.take(*places))
    label, place = np.nonzero(scores > least)
    best = np.argsort(-scores[label, place], kind="stable")[:most]
    label, place = label[best], place[best]
    return Scored(anchor[place], y[place], x[place], label.astype(np.int64), scores[label, place])
