"""The manifest's `detector` entry, read and checked once: which output is which, anchors and thresholds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from aqd_deploy.errors import ModelFileError
from aqd_deploy.schema import Check, SchemaError, anything, list_of, number, table, text, whole

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
    IoU; `category_ids` are the training set's, else the classes' own numbers."""

    kind: str
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    levels: tuple[Level, ...]
    anchors: Anchors | None
    score_threshold: float
    nms_iou: float
    max_detections: int
    pre_nms: int

    def least_probability(self, score: float) -> float:
        """The least class probability that can become `score`: FCOS's score is √(p·c) with c ≤ 1."""
        return {"fcos": score**2, "retinanet": score}[self.kind]

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
        if not isinstance(kind, str) or kind not in KINDS:
            raise ModelFileError("unknown kind of detector", received=kind, valid=", ".join(KINDS))
        try:
            _schema(kind)(entry, "")
        except SchemaError as error:
            raise error.of("the manifest's detector", ModelFileError) from None
        return cls(
            kind=kind,
            classes=tuple(str(name) for name in entry["classes"]),
            category_ids=_category_ids(entry),
            levels=_levels(entry, KINDS[kind]),
            anchors=_anchors(entry["anchors"]) if kind == "retinanet" else None,
            score_threshold=float(entry["score_threshold"]),
            nms_iou=float(entry["nms_iou"]),
            max_detections=entry["max_detections"],
            pre_nms=entry["pre_nms"],
        )


def _schema(kind: str) -> Check:
    """What the entry of a detector of this kind has to be."""
    positive = list_of(number(above=0, high=1e6), 1)
    anchors = table({"base": number(above=0, high=1e6), "scales": positive, "ratios": positive})
    probability, count = number(0, 1), whole(1, 1 << 31)
    return table({
        "classes": list_of(anything, 1),
        "strides": list_of(whole(1, 1 << 20), 1),
        "outputs": table(dict.fromkeys(KINDS[kind], list_of(text, 1))),
        "score_threshold": probability,
        "nms_iou": probability,
        "max_detections": count,
        "pre_nms": count,
        **({"anchors": anchors} if kind == "retinanet" else {}),
    }, {"category_ids": list_of(whole())})  # fmt: skip


def _category_ids(entry: dict[str, Any]) -> tuple[int, ...]:
    count = len(entry["classes"])
    ids = tuple(entry.get("category_ids", range(count)))
    if len(set(ids)) != len(ids) or len(ids) != count:
        raise ModelFileError(
            "the manifest's category_ids are not one for each class",
            received=f"{len(set(ids))} different ones", valid=f"{count} different ones",
        )  # fmt: skip
    return ids


def _anchors(entry: dict[str, Any]) -> Anchors:
    return Anchors.of(entry["base"], entry["scales"], entry["ratios"])


def _levels(entry: dict[str, Any], kinds: tuple[str, ...]) -> tuple[Level, ...]:
    strides = entry["strides"]
    names = {kind: entry["outputs"][kind] for kind in kinds}
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
