"""The manifest's `detector` entry, read and checked once: which output is which, anchors and thresholds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from aqd_deploy.errors import ModelFileError

KINDS = {"fcos": ("cls", "box", "ctr"), "retinanet": ("cls", "box")}


@dataclass(frozen=True)
class Anchors:
    """RetinaNet's anchor shapes, in units of the stride: widths and heights float64 [A], ratio-major."""

    widths: np.ndarray
    heights: np.ndarray

    @classmethod
    def of(cls, base: float, scales: list[float], ratios: list[float]) -> Anchors:
        """Anchors of area (base·scale)² and h/w = ratio; index ratio_index·len(scales) + scale_index."""
        shapes = [(base * s / math.sqrt(r), base * s * math.sqrt(r)) for r in ratios for s in scales]
        return cls(np.array([w for w, _ in shapes]), np.array([h for _, h in shapes]))


@dataclass(frozen=True)
class Level:
    """One pyramid level: its stride in pixels and the names of its outputs; `ctr` for FCOS only."""

    stride: int
    cls: str
    box: str
    ctr: str | None


@dataclass(frozen=True)
class DetectorSettings:
    """What decoding needs to know. `anchors` for RetinaNet only; the thresholds are probabilities and an
    IoU."""

    kind: str
    classes: tuple[str, ...]
    levels: tuple[Level, ...]
    anchors: Anchors | None
    score_threshold: float
    nms_iou: float
    max_detections: int
    pre_nms: int

    @property
    def anchors_per_cell(self) -> int:
        return 1 if self.anchors is None else len(self.anchors.widths)

    @classmethod
    def from_manifest(cls, manifest: dict[str, Any]) -> DetectorSettings:
        """Reads `manifest["detector"]` (docs/qdq-form.md); ModelFileError where it is missing or not
        valid."""
        entry = manifest.get("detector")
        if not isinstance(entry, dict):
            raise ModelFileError("the manifest has no detector: this network gives no boxes")
        kind = entry.get("kind")
        if kind not in KINDS:
            raise ModelFileError("unknown kind of detector", received=kind, valid=", ".join(KINDS))
        try:
            settings = cls(
                kind=kind,
                classes=tuple(str(name) for name in entry["classes"]),
                levels=_levels(entry, KINDS[kind]),
                anchors=Anchors.of(**entry["anchors"]) if kind == "retinanet" else None,
                score_threshold=float(entry["score_threshold"]),
                nms_iou=float(entry["nms_iou"]),
                max_detections=int(entry["max_detections"]),
                pre_nms=int(entry["pre_nms"]),
            )
        except KeyError as error:
            raise ModelFileError(f"the manifest's detector has no {error}") from None
        except (TypeError, ValueError) as error:
            raise ModelFileError(f"the manifest's detector is not valid ({error})") from None
        settings._check()
        return settings

    def _check(self) -> None:
        if not self.classes:
            raise ModelFileError("the manifest's detector has no classes")
        for name in ("score_threshold", "nms_iou"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ModelFileError(f"the manifest's {name} is not valid", received=value, valid="0 to 1")
        for name in ("max_detections", "pre_nms"):
            value = getattr(self, name)
            if value < 1:
                raise ModelFileError(f"the manifest's {name} is not valid", received=value, valid="1 or more")


def _levels(entry: dict[str, Any], kinds: tuple[str, ...]) -> tuple[Level, ...]:
    strides = [int(stride) for stride in entry["strides"]]
    names = {kind: [str(name) for name in entry["outputs"][kind]] for kind in kinds}
    counts = {kind: len(of_kind) for kind, of_kind in names.items()}
    if set(counts.values()) != {len(strides)}:
        raise ModelFileError(
            "the manifest's detector names another number of outputs than of strides",
            received=f"{counts} for {len(strides)} strides",
        )
    centreness = names.get("ctr", [None] * len(strides))
    return tuple(
        Level(stride, names["cls"][k], names["box"][k], centreness[k]) for k, stride in enumerate(strides)
    )
