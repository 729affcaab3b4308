"""How far the outputs of a quantized network are from those of its float one, in one number.

DetPTQ (Niu, Liu et al., arXiv 2304.09785) chooses by an "object detection output loss" of which we could read
no formula. This one is ours. It needs images, no labels: what the float network says is what ought to come
out, and it counts where the float network sees something.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from onnx import ModelProto

from aqd_deploy.detection.detectors.boxes import Boxes
from aqd_deploy.detection.detectors.contract import Level, MapDetector
from aqd_deploy.detection.interface import check_interface
from aqd_deploy.detection.maps import sigmoid
from aqd_deploy.detection.settings import DetectorSettings
from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.integer.manifest import read_manifest
from aqd_deploy.passes.canonical.input_shapes import inputs_of, sizes_of
from aqd_deploy.passes.operators import label_of

REORDERING = ("NonMaxSuppression", "NonZero", "TopK", "Unique", "Compress")
"""Operators behind which the rows of an output depend on the values."""
_LEAST = 1e-7
"""A probability that a float network says is 0 or 1 is that far from it."""
Outputs = Mapping[str, np.ndarray]


class OutputLoss(Protocol):
    """What every such number is."""

    def __call__(self, reference: Sequence[Outputs], outputs: Sequence[Outputs]) -> float:
        """The loss of `outputs` against the float network's, both an entry an image, by name."""


def loss_for(manifest: Mapping[str, Any]) -> OutputLoss:
    """The detection loss for a detector of maps, that of rows for decoded boxes, the mean square for every
    other network.
    """
    if manifest.get("detector") is not None:
        settings = DetectorSettings.from_manifest(dict(manifest))
        if isinstance(settings.detector, MapDetector):
            return DetectionLoss(settings.detector, settings.levels)
        if isinstance(settings.detector, Boxes):
            return BoxesLoss(settings.levels)
    return MeanSquare()


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
    if isinstance(loss, BoxesLoss):
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
    """(Σ Kullback-Leibler(p, p_q) + Σ w·|box − box_q|) / Σ w over all cells, anchors, levels and images.

    p are the probabilities of the float network's class map, each class a coin of its own; w of an anchor is
    the largest of its classes. Further maps of probabilities (centre-ness) count as the class map does, times
    w. Boxes are compared as the maps hold them: in strides, or in anchor sides and their logarithms.
    """

    detector: MapDetector
    levels: tuple[Level, ...]

    def __call__(self, reference: Sequence[Outputs], outputs: Sequence[Outputs]) -> float:
        sums = np.sum([self._level(level, reference, outputs) for level in self.levels], axis=0)
        return float(sums[0] / sums[1])

    def _level(
        self, level: Level, reference: Sequence[Outputs], outputs: Sequence[Outputs]
    ) -> tuple[float, float]:
        """Loss and weight; maps are [images, anchors, channels of an anchor, H, W]."""
        anchors = self.detector.anchors_per_cell

        def stacked(images: Sequence[Outputs], name: str) -> np.ndarray:
            maps = np.concatenate([each[name] for each in images]).astype(np.float64)
            return maps.reshape(len(maps), anchors, -1, *maps.shape[2:])

        maps = {
            kind: (stacked(reference, name), stacked(outputs, name)) for kind, name in level.outputs.items()
        }
        scores, *others = self.detector.logits
        weight = sigmoid(maps[scores][0]).max(axis=2, keepdims=True)
        loss = _divergence(*maps[scores]).sum()
        for kind in others:
            loss += (weight * _divergence(*maps[kind])).sum()
        for kind, (expected, found) in maps.items():
            if kind not in self.detector.logits:
                loss += (weight * np.abs(expected - found)).sum()
        return loss, weight.sum()


@dataclass(frozen=True)
class BoxesLoss:
    """(Σ Kullback-Leibler(p, p_q) + Σ p·|box − box_q| / sides) / Σ p over the rows of decoded boxes.

    p are the float network's scores; of a box with another label the quantized score counts as 0. Distances
    of corners are in sides of the float network's box, of one pixel at least.
    """

    levels: tuple[Level, ...]

    def __call__(self, reference: Sequence[Outputs], outputs: Sequence[Outputs]) -> float:
        sums = np.sum(
            [
                self._rows(level.outputs, *pair)
                for level in self.levels
                for pair in zip(reference, outputs, strict=True)
            ],
            axis=0,
        )
        return float(sums[0] / max(sums[1], _LEAST))

    def _rows(self, names: Mapping[str, str], expected: Outputs, found: Outputs) -> tuple[float, float]:
        """Loss and weight of an image."""
        p, p_q = (each[names["scores"]].astype(np.float64).ravel() for each in (expected, found))
        boxes, boxes_q = (
            each[names["boxes"]].astype(np.float64).reshape(-1, 4) for each in (expected, found)
        )
        if "labels" in names:
            same = expected[names["labels"]].ravel() == found[names["labels"]].ravel()
            p_q = np.where(same, p_q, 0)
        sides = np.maximum(np.abs(boxes[:, 2:] - boxes[:, :2]), 1)
        distance = (np.abs(boxes - boxes_q) / np.tile(sides, 2)).sum(axis=1)
        return _divergence(_logit(p), _logit(p_q)).sum() + (p * distance).sum(), p.sum()


@dataclass(frozen=True)
class MeanSquare:
    """The mean over all outputs of Σ(found − expected)² / Σ expected²."""

    def __call__(self, reference: Sequence[Outputs], outputs: Sequence[Outputs]) -> float:
        shares = []
        for name in reference[0]:
            expected, found = (
                np.stack([each[name] for each in images]).astype(np.float64)
                for images in (reference, outputs)
            )
            shares.append(
                ((found - expected) ** 2).sum() / max((expected**2).sum(), np.finfo(np.float64).tiny)
            )
        return float(np.mean(shares))


def _logit(probability: np.ndarray) -> np.ndarray:
    """Of numbers in 0..1, the ends cut off."""
    p = np.clip(probability, _LEAST, 1 - _LEAST)
    return np.log(p) - np.log1p(-p)


def _divergence(expected: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Kullback-Leibler divergence of coins, given as logits: ≥ 0, without overflow."""
    p = sigmoid(expected)
    heads = np.logaddexp(0, -found) - np.logaddexp(0, -expected)
    tails = np.logaddexp(0, found) - np.logaddexp(0, expected)
    return p * heads + (1 - p) * tails
