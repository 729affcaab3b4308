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


def _divergence(expected: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Kullback-Leibler divergence of coins, given as logits: ≥ 0, without overflow."""
    p = sigmoid(expected)
    heads = np.logaddexp(0, -found) - np.logaddexp(0, -expected)
    tails = np.logaddexp(0, found) - np.logaddexp(0, expected)
    return p * heads + (1 - p) * tails
