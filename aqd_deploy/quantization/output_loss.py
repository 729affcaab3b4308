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

from aqd_deploy.detection.detectors.contract import Level, MapDetector
from aqd_deploy.detection.maps import sigmoid
from aqd_deploy.detection.settings import DetectorSettings

Outputs = Mapping[str, np.ndarray]


class OutputLoss(Protocol):
    """What every such number is."""

    def __call__(self, reference: Sequence[Outputs], outputs: Sequence[Outputs]) -> float:
        """The loss of `outputs` against the float network's, both an entry an image, by name."""


def loss_for(manifest: Mapping[str, Any]) -> OutputLoss:
    """The detection loss for a detector of maps, the mean square for every other network."""
    if manifest.get("detector") is not None:
        settings = DetectorSettings.from_manifest(dict(manifest))
        if isinstance(settings.detector, MapDetector):
            return DetectionLoss(settings.detector, settings.levels)
    return MeanSquare()


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
        sums = np.zeros(2)
        for expected, found in zip(reference, outputs, strict=True):
            for level in self.levels:
                sums += self._level(level, expected, found)
        return float(sums[0] / sums[1])

    def _level(self, level: Level, reference: Outputs, outputs: Outputs) -> tuple[float, float]:
        """Loss and weight."""
        anchors = self.detector.anchors_per_cell
        maps = {
            kind: tuple(each[name].astype(np.float64).reshape(anchors, -1, *each[name].shape[2:])
                        for each in (reference, outputs))
            for kind, name in level.outputs.items()
        }  # fmt: skip
        scores, *others = self.detector.logits
        weight = sigmoid(maps[scores][0]).max(axis=1, keepdims=True)
        loss = _divergence(*maps[scores]).sum()
        for kind in others:
            loss += (weight * _divergence(*maps[kind])).sum()
        for kind in maps.keys() - set(self.detector.logits):
            expected, found = maps[kind]
            loss += (weight * np.abs(expected - found)).sum()
        return loss, weight.sum()


@dataclass(frozen=True)
class MeanSquare:
    """The mean over all outputs of the mean square difference, in units of the reference's variance."""

    def __call__(self, reference: Sequence[Outputs], outputs: Sequence[Outputs]) -> float:
        return float(np.mean([
            ((expected[name].astype(np.float64) - found[name]) ** 2).mean()
            / max(float(expected[name].astype(np.float64).var()), np.finfo(np.float32).tiny)
            for expected, found in zip(reference, outputs, strict=True)
            for name in expected
        ]))  # fmt: skip


def _divergence(expected: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Kullback-Leibler divergence of coins, given as logits: ≥ 0, without overflow."""
    p = sigmoid(expected)
    heads = np.logaddexp(0, -found) - np.logaddexp(0, -expected)
    tails = np.logaddexp(0, found) - np.logaddexp(0, expected)
    return p * heads + (1 - p) * tails
