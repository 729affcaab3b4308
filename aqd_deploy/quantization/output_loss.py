"""How far the outputs of a quantized network are from those of its float one, in one number.

DetPTQ (Niu, Liu et al., arXiv 2304.09785) chooses by an "object detection output loss" of which we could read
no formula. This one is ours. It needs images, no labels: what the float network says is what ought to come
out, and it counts where the float network sees something.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from onnx import ModelProto

from aqd_deploy.detection.detectors.contract import Detector, Level, Places
from aqd_deploy.detection.interface import check_interface
from aqd_deploy.detection.settings import DetectorSettings
from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.integer.manifest import read_manifest
from aqd_deploy.passes.canonical.input_shapes import inputs_of, sizes_of
from aqd_deploy.passes.operators import label_of

REORDERING = ("NonMaxSuppression", "NonZero", "TopK", "Unique", "Compress")
"""Operators behind which the rows of an output depend on the values."""
BOX_WEIGHT = 2.0
"""With 2, and with 3, the loss follows AP better than with 0.5 or 1 over the files that were measured for
docs/post-training.md: 4 and 3 bits, both detectors.
"""
FAINTEST = 0.01
"""Places whose score is below this share of the surest one's do not count."""
_LEAST = 1e-7
"""A probability of 0 or 1 is taken to be that far from it."""
_TOGETHER = 1 << 21
"""Numbers of outputs that are looked at together."""
Outputs = Mapping[str, np.ndarray]
Distance = Callable[[Sequence[Outputs]], float]
"""The loss of a network's outputs, an entry an image."""


class OutputLoss(Protocol):
    """What every such number is."""

    def against(self, reference: Sequence[Outputs]) -> Distance:
        """The loss against these outputs, which are the float network's: an entry an image, by name."""


def loss_for(manifest: Mapping[str, Any]) -> OutputLoss:
    """The detection loss for a detector, the mean square for every other network."""
    if manifest.get("detector") is None:
        return MeanSquare()
    settings = DetectorSettings.from_manifest(dict(manifest))
    return DetectionLoss(settings.detector, settings.levels)


def manifest_of(model: ModelProto, described: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What a float model says of itself, and over it the entries `preprocessing` and `detector` of
    `described`, held to its inputs and outputs. Raises ModelFileError where they tell of another network.
    """
    inputs, outputs = (
        {value.name: sizes_of(value) for value in values} for values in (inputs_of(model), model.graph.output)
    )
    manifest = {**read_manifest(model), **(described or {})}
    if described:
        # All of them count as inputs of floats, which mean and std are for.
        manifest["inputs"] = {name: {} for name in inputs}
    check_interface(manifest, inputs, outputs, more_outputs=True)
    return manifest


def loss_of(model: ModelProto, manifest: Mapping[str, Any]) -> OutputLoss:
    """`loss_for`; UnsupportedModelError for boxes that are sorted or suppressed: their rows are others in
    every version of the network.
    """
    loss = loss_for(manifest)
    if isinstance(loss, DetectionLoss):
        _check_rows(model, {name for level in loss.levels for name in level.outputs.values()})
    return loss


def _check_rows(model: ModelProto, names: set[str]) -> None:
    needed = set(names)
    for node in reversed(model.graph.node):
        if not needed.intersection(node.output):
            continue
        needed.update(node.input)
        if node.op_type in REORDERING:
            raise UnsupportedModelError(
                "boxes are compared row by row, and this network sorts or suppresses them",
                received=f"{node.op_type} {label_of(node)} in front of {', '.join(sorted(names))}",
                valid="outputs from in front of it, described in a --detector file; nms_iou suppresses there",
                next_command="the same command with --method mse, which looks at tensors only",
            )


@dataclass(frozen=True)
class DetectionLoss:
    """Σ s·(Σ Kullback-Leibler(p, p_q) + 2·(1 − IoU)) / Σ s over the places of all levels and images.

    p and p_q are the scores of a class at a place, each class a coin of its own; the inner sum is over the
    classes. s is the float network's best p there. IoU is that of the two boxes.
    """

    detector: Detector
    levels: tuple[Level, ...]

    def against(self, reference: Sequence[Outputs]) -> Distance:
        """See `OutputLoss`. Raises what `Detector.read` raises for outputs that do not fit the manifest."""
        for level in self.levels:
            self.detector.read(reference[0], {}, level, 0.5, 1)
        groups = self._groups(reference)
        everywhere = [self._everywhere(group) for group in groups]
        faintest = FAINTEST * max(each.scores.max(initial=0) for each in everywhere)
        seen = [np.flatnonzero(each.scores.max(axis=1) >= faintest) for each in everywhere]
        expected = [_at(each, where) for each, where in zip(everywhere, seen, strict=True)]
        return partial(self._distance, expected, seen)

    def _distance(
        self, reference: Sequence[Places], seen: Sequence[np.ndarray], outputs: Sequence[Outputs]
    ) -> float:
        loss = weight = 0.0
        for expected, where, group in zip(reference, seen, self._groups(outputs), strict=True):
            found = _at(self._everywhere(group), where)
            s = expected.scores.max(axis=1, initial=0)
            apart = _divergence(expected.scores, found.scores).sum(axis=1)
            loss += float((s * (apart + BOX_WEIGHT * (1 - _overlap(expected.boxes, found.boxes)))).sum())
            weight += float(s.sum())
        return loss / max(weight, _LEAST)

    def _everywhere(self, outputs: Outputs) -> Places:
        """Those of all levels."""
        levels = [self.detector.everywhere(outputs, level) for level in self.levels]
        return Places(
            np.concatenate([each.scores for each in levels]), np.concatenate([each.boxes for each in levels])
        )

    def _groups(self, images: Sequence[Outputs]) -> list[Outputs]:
        """Outputs of some images one behind the other: many small arrays cost more than few large ones."""
        names = [name for level in self.levels for name in level.outputs.values()]
        together = max(1, _TOGETHER // sum(images[0][name].size for name in names))
        return [
            {name: np.concatenate([each[name] for each in images[k : k + together]]) for name in names}
            for k in range(0, len(images), together)
        ]


@dataclass(frozen=True)
class MeanSquare:
    """The mean over all outputs of Σ(found − expected)² / Σ expected²."""

    def against(self, reference: Sequence[Outputs]) -> Distance:
        return partial(_mean_square, reference)


def _mean_square(reference: Sequence[Outputs], outputs: Sequence[Outputs]) -> float:
    shares = []
    for name in reference[0]:
        expected, found = (
            np.stack([each[name] for each in images]).astype(np.float64) for images in (reference, outputs)
        )
        shares.append(((found - expected) ** 2).sum() / max((expected**2).sum(), np.finfo(np.float64).tiny))
    return float(np.mean(shares))


def _at(places: Places, where: np.ndarray) -> Places:
    return Places(places.scores[where], places.boxes[where])


def _overlap(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """IoU [n] of boxes [n, 4] (x1, y1, x2, y2); 0 of boxes without an area."""

    def area(corners: np.ndarray) -> np.ndarray:
        return np.prod(np.maximum(corners[:, 2:] - corners[:, :2], 0), axis=1)

    inner = [np.maximum(first[:, :2], second[:, :2]), np.minimum(first[:, 2:], second[:, 2:])]
    shared = area(np.concatenate(inner, axis=1))
    whole = area(first) + area(second) - shared
    return np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)


def _divergence(expected: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Kullback-Leibler divergence of coins with these probabilities: ≥ 0."""
    p, q = (np.clip(each, _LEAST, 1 - _LEAST) for each in (expected, found))
    return p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
