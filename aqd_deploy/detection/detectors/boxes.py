"""Boxes that the network's own tail has decoded: what is left is to read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from aqd_deploy.detection.detectors.contract import Detector, Level, LevelBoxes, Places
from aqd_deploy.errors import ModelFileError, ShapeError


class Boxes(Detector):
    """`boxes` [N, 4] (x1, y1, x2, y2 in pixels of the network's input), `scores` [N] in 0..1 and `labels`
    [N], numbers of classes from 0; a batch of 1 may stand in front of each. Where there is one class, there
    may be no labels.

    They are taken as suppressed already: no IoU is above 1.
    """

    name = "boxes"
    kinds = ("boxes", "scores", "labels")
    may_lack = ("labels",)
    nms_iou = 1.0

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Self:
        if "labels" not in entry["outputs"] and len(entry["classes"]) > 1:
            raise ModelFileError(
                "the manifest's detector has several classes and no labels",
                received=f"{len(entry['classes'])} classes",
                valid="outputs.labels, or one class",
            )
        return super().of(entry)

    def least_probability(self, score: float) -> float:
        return score

    def read(
        self, outputs: Mapping[str, np.ndarray], described: Mapping[str, Any], level: Level, least: float,
        most: int,
    ) -> LevelBoxes:  # fmt: skip
        boxes, scores = (
            _rows(outputs, level.outputs["boxes"], (4,)),
            _rows(outputs, level.outputs["scores"], ()),
        )
        named = level.outputs.get("labels")
        labels = np.zeros(len(scores)) if named is None else _rows(outputs, named, ())
        if not len(boxes) == len(scores) == len(labels):
            raise ShapeError(
                "the outputs of decoded boxes have different lengths",
                received=f"{len(boxes)} boxes, {len(scores)} scores, {len(labels)} labels",
                valid="one score and one label a box",
            )
        found = np.flatnonzero(scores > least)
        found = found[np.argsort(-scores[found], kind="stable")[:most]]
        strange = [each for each in np.unique(labels[found]).tolist() if each not in range(self.classes)]
        if strange:
            raise ShapeError(
                f"the output {named} has a label that no class has", received=strange[0],
                valid=f"0 to {self.classes - 1}: list every class in `classes`, a background as well",
            )  # fmt: skip
        return boxes[found] * level.stride, scores[found], labels[found].astype(np.int64)

    def everywhere(self, outputs: Mapping[str, np.ndarray], level: Level) -> Places:
        """See `Detector`. The score of a class that a box is not labelled with is 0."""
        boxes = outputs[level.outputs["boxes"]].reshape(-1, 4).astype(np.float64)
        scores = outputs[level.outputs["scores"]].reshape(-1, 1).astype(np.float64)
        named = level.outputs.get("labels")
        labels = np.zeros_like(scores) if named is None else outputs[named].reshape(-1, 1)
        return Places(np.where(labels == np.arange(self.classes), scores, 0.0), boxes * level.stride)


def _rows(outputs: Mapping[str, np.ndarray], name: str, each: tuple[int, ...]) -> np.ndarray:
    """float64 [N, *each] of an output [N, *each] or [1, N, *each]."""
    if name not in outputs:
        raise ShapeError(
            "an output that the manifest names is missing", received=name, valid=", ".join(outputs)
        )
    array = outputs[name]
    rows = array[0] if array.ndim == len(each) + 2 and array.shape[0] == 1 else array
    if rows.ndim != len(each) + 1 or rows.shape[1:] != each:
        raise ShapeError(
            f"the output {name} has another shape than decoded boxes have",
            received=list(array.shape),
            valid=str(["N", *each]).replace("'", ""),
        )
    return rows.astype(np.float64)
