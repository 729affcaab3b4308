"""Scores that are a product: how likely a place has an object, and of which class it is then."""

from __future__ import annotations

from collections.abc import Callable
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


def softmax(logits: np.ndarray) -> np.ndarray:
    """exp(z)/Σ exp(z) along the first axis, without overflow."""
    weights = np.exp(logits - logits.max(axis=0, keepdims=True))
    return weights / weights.sum(axis=0, keepdims=True)


def scored_places(
    objectness: OutputMap, classes: OutputMap, least: float, most: int,
    chances: Callable[[np.ndarray], np.ndarray] = sigmoid,
) -> Scored:  # fmt: skip
    """The `most` best of σ(objectness)·chances(classes) > `least`; `chances` makes probabilities of logits
    [C, n].

    `objectness` [A, H, W] and `classes` [A·C, H, W] are logits. Places whose objectness alone is not above
    `least`, which integers decide, are not looked at further.
    """
    places = np.unravel_index(objectness.above(least), objectness.values.shape)
    anchor, y, x = places
    count = len(classes.values) // len(objectness.values)
    logits = classes.take(anchor * count + np.arange(count)[:, None], y, x)
    scores = chances(logits) * sigmoid(objectness.take(*places))
    label, place = np.nonzero(scores > least)
    best = np.argsort(-scores[label, place], kind="stable")[:most]
    label, place = label[best], place[best]
    return Scored(anchor[place], y[place], x[place], label.astype(np.int64), scores[label, place])
