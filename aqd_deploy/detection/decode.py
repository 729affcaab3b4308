"""From a detector's head outputs to boxes: FCOS and RetinaNet as docs/qdq-form.md defines them.

Outputs may be integers with their scales in the manifest (the integer file, the compiled program) or floats
(the QDQ file, torch). Integers stay integers until the score threshold has been decided on them
(`thresholds`); only the entries that survive are turned into numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from aqd_deploy.detection.images import Placement
from aqd_deploy.detection.nms import class_wise_nms
from aqd_deploy.detection.settings import Anchors, DetectorSettings, Level
from aqd_deploy.detection.thresholds import integer_threshold, logit
from aqd_deploy.errors import ModelFileError, ScaleError, ShapeError

# Larger box deltas give a side of 62.5 anchors; beyond it exp() would only overflow.
LARGEST_LOG_SIDE = float(np.log(1000 / 16))


@dataclass(frozen=True)
class Detections:
    """Boxes float32 [n, 4] (x1, y1, x2, y2) in pixels of the original image, scores float32 [n] in 0..1,
    labels int64 [n] (index into the manifest's classes); by falling score."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)

    def at_least(self, score: float) -> Detections:
        """Those of this score and above."""
        kept = self.scores >= score
        return Detections(self.boxes[kept], self.scores[kept], self.labels[kept])


def decode(outputs: dict[str, np.ndarray], manifest: dict[str, Any], placement: Placement) -> Detections:
    """The detections of one image.

    outputs: head outputs by name, [1, C, H, W], int32 with `manifest["outputs"][name]["scale"]` (one number
    or one a channel) or floating point. Candidates are the entries whose class probability is above
    `score_threshold`; of each level the `pre_nms` best scores go on. Boxes are clipped to the image, empty
    ones dropped, then class-wise NMS.

    Raises ModelFileError for a manifest that does not fit, ShapeError for outputs that are missing or of a
    shape that does not fit the manifest, ScaleError for a scale that is missing or not positive.
    """
    settings = DetectorSettings.from_manifest(manifest)
    parts = [_decode_level(outputs, manifest, settings, level) for level in settings.levels]
    boxes, scores, labels = (np.concatenate(values) for values in zip(*parts, strict=True))
    boxes = placement.to_image(boxes)
    solid = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]) & np.isfinite(scores)
    boxes, scores, labels = boxes[solid], scores[solid], labels[solid]
    kept = class_wise_nms(boxes, scores, labels, settings.nms_iou, settings.max_detections)
    return Detections(boxes[kept].astype(np.float32), scores[kept].astype(np.float32), labels[kept])


@dataclass(frozen=True)
class _Head:
    """One output map: values [C, H, W] and, for integers, the scale float64 [1] or [C]."""

    name: str
    values: np.ndarray
    scale: np.ndarray | None

    @classmethod
    def of(cls, outputs: dict[str, np.ndarray], manifest: dict[str, Any], name: str, channels: int) -> _Head:
        if name not in outputs:
            raise ShapeError(
                "an output that the manifest names is missing", received=name, valid=", ".join(outputs)
            )
        array = np.asarray(outputs[name])
        if array.ndim != 4 or array.shape[0] != 1 or array.shape[1] != channels:
            raise ShapeError(
                f"the output {name} has another shape than the manifest says",
                received=list(array.shape),
                valid=f"[1, {channels}, H, W]",
            )
        if np.issubdtype(array.dtype, np.floating):
            return cls(name, array[0], None)
        if not np.issubdtype(array.dtype, np.integer):
            raise ModelFileError(
                f"the output {name} is no number", received=array.dtype, valid="int32 or float32"
            )
        return cls(name, array[0], _scale(manifest, name, channels))

    def above(self, probability: float) -> np.ndarray:
        """Flat indices int64 of the entries whose sigmoid is greater than `probability`, ascending."""
        if self.scale is None:
            return np.flatnonzero(self.values > np.float64(logit(probability)))
        bounds = [integer_threshold(probability, float(alpha)) for alpha in self.scale]
        if None in bounds:
            return np.arange(self.values.size)
        # Clipped so that int32 values are compared as int32: every one of them is ≥ −2^31.
        least = np.clip([bound + 1 for bound in bounds if bound is not None], -(2**31), 2**31)
        if least.max() < 2**31:
            return np.flatnonzero(self.values >= least.astype(np.int32)[:, None, None])
        return np.flatnonzero(self.values >= least[:, None, None])

    def take(self, channel: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """The real numbers at these places, float64."""
        values = self.values[channel, y, x].astype(np.float64)
        if self.scale is None:
            return values
        return values * (self.scale[channel] if len(self.scale) > 1 else self.scale[0])


def _scale(manifest: dict[str, Any], name: str, channels: int) -> np.ndarray:
    entry = manifest.get("outputs", {}).get(name)
    if entry is None or "scale" not in entry:
        raise ScaleError(
            f"the integer output {name} has no scale in the manifest", next_command="aqd-deploy inspect FILE"
        )
    scale = np.atleast_1d(np.asarray(entry["scale"], dtype=np.float64))
    if scale.ndim != 1 or len(scale) not in (1, channels):
        raise ScaleError(
            f"the output {name} has the wrong number of scales", received=len(scale), valid=f"1 or {channels}"
        )
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        raise ScaleError(f"a scale of the output {name} is not valid", valid="positive finite numbers")
    return scale


def _decode_level(
    outputs: dict[str, np.ndarray], manifest: dict[str, Any], settings: DetectorSettings, level: Level
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes float64 [n, 4] in network pixels, scores float64 [n] and labels int64 [n] of one level."""
    per_cell, classes = settings.anchors_per_cell, len(settings.classes)
    cls = _Head.of(outputs, manifest, level.cls, per_cell * classes)
    box = _Head.of(outputs, manifest, level.box, per_cell * 4)
    ctr = None if level.ctr is None else _Head.of(outputs, manifest, level.ctr, 1)
    for other in (box, ctr):
        if other is not None and other.values.shape[1:] != cls.values.shape[1:]:
            raise ShapeError(
                f"the outputs {cls.name} and {other.name} of one level have different sizes",
                received=f"{cls.values.shape[1:]} and {other.values.shape[1:]}",
            )
    channel, y, x = np.unravel_index(cls.above(settings.score_threshold), cls.values.shape)
    scores = _sigmoid(cls.take(channel, y, x))
    if ctr is not None:
        scores = np.sqrt(scores * _sigmoid(ctr.take(np.zeros_like(channel), y, x)))
    best = np.argsort(-scores, kind="stable")[: settings.pre_nms]
    channel, y, x, scores = channel[best], y[best], x[best], scores[best]
    anchor, label = np.divmod(channel, classes)
    deltas = np.stack([box.take(anchor * 4 + k, y, x) for k in range(4)], axis=1)
    centres = (np.stack([x, y], axis=1) + 0.5) * level.stride
    if settings.anchors is None:
        boxes = _fcos_boxes(centres, deltas * level.stride)
    else:
        boxes = _anchor_boxes(centres, deltas, settings.anchors, anchor, level.stride)
    return boxes, scores, label.astype(np.int64)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * x))


def _fcos_boxes(centres: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """Boxes [n, 4] from cell centres [n, 2] and the distances (l, t, r, b) [n, 4] in pixels."""
    return np.concatenate([centres - distances[:, :2], centres + distances[:, 2:]], axis=1)


def _anchor_boxes(
    centres: np.ndarray, deltas: np.ndarray, anchors: Anchors, anchor: np.ndarray, stride: int
) -> np.ndarray:
    """Boxes [n, 4] from cell centres [n, 2], (dx, dy, dw, dh) [n, 4] and anchor indices [n]."""
    size = np.stack([anchors.widths[anchor], anchors.heights[anchor]], axis=1) * stride
    middle = centres + deltas[:, :2] * size
    half = size * np.exp(np.minimum(deltas[:, 2:], LARGEST_LOG_SIDE)) / 2
    return np.concatenate([middle - half, middle + half], axis=1)
