"""The manifest's `detector` entry, read and checked once: its kind, which output is which, thresholds."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from aqd_deploy.detection.detectors import Detector, detector_named
from aqd_deploy.detection.detectors.contract import Level
from aqd_deploy.errors import ModelFileError
from aqd_deploy.schema import Check, SchemaError, anything, list_of, number, table, text, whole


@dataclass(frozen=True)
class DetectorSettings:
    """What decoding needs to know. The thresholds are probabilities and an IoU; `category_ids` are the
    training set's, else the classes' own numbers.
    """

    detector: Detector
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    levels: tuple[Level, ...]
    score_threshold: float
    nms_iou: float
    max_detections: int
    pre_nms: int

    def with_candidates_for(self, score: float) -> DetectorSettings:
        """The same with a threshold for candidates that loses nothing of this score."""
        # Candidates are above the threshold.
        below = math.nextafter(self.detector.least_probability(score), 0)
        return replace(self, score_threshold=min(below, self.score_threshold))

    @classmethod
    def from_manifest(cls, manifest: dict[str, Any]) -> DetectorSettings:
        """Reads `manifest["detector"]` (docs/qdq-form.md); ModelFileError where it is missing or not
        valid.
        """
        entry = manifest.get("detector")
        if not isinstance(entry, dict):
            raise ModelFileError(
                "the manifest has no detector: this network gives no boxes",
                next_command="aqd-deploy detect PROGRAM IMAGE -o FOLDER --detector F.toml, which has one",
            )
        kind = detector_named(entry.get("kind"), ModelFileError)
        try:
            table(*detector_keys(kind))(entry, "")
        except SchemaError as error:
            raise error.of("the manifest's detector", ModelFileError) from None
        return cls(
            detector=kind.of(entry),
            classes=tuple(str(name) for name in entry["classes"]),
            category_ids=_category_ids(entry),
            levels=_levels(entry, kind.kinds),
            score_threshold=float(entry["score_threshold"]),
            nms_iou=float(entry["nms_iou"]),
            max_detections=entry["max_detections"],
            pre_nms=entry["pre_nms"],
        )


def detector_keys(kind: type[Detector]) -> tuple[dict[str, Check], dict[str, Check]]:
    """What the entry of a detector of this kind must have beside `kind`, and what it may have."""
    probability, count, names = number(0, 1), whole(1, 1 << 31), list_of(text, 1)
    return {
        "classes": list_of(anything, 1),
        "outputs": table(
            {each: names for each in kind.kinds if each not in kind.may_lack},
            dict.fromkeys(kind.may_lack, names),
        ),
        "score_threshold": probability,
        "nms_iou": probability,
        "max_detections": count,
        "pre_nms": count,
        **kind.keys,
    }, {"category_ids": list_of(whole()), **kind.optional_keys}  # fmt: skip


def _category_ids(entry: dict[str, Any]) -> tuple[int, ...]:
    count = len(entry["classes"])
    ids = tuple(entry.get("category_ids", range(count)))
    if len(set(ids)) != len(ids) or len(ids) != count:
        raise ModelFileError(
            "the manifest's category_ids are not one for each class",
            received=f"{len(set(ids))} different ones", valid=f"{count} different ones",
        )  # fmt: skip
    return ids


def _levels(entry: dict[str, Any], kinds: tuple[str, ...]) -> tuple[Level, ...]:
    names = {kind: entry["outputs"][kind] for kind in kinds if kind in entry["outputs"]}
    counts = {kind: len(of_kind) for kind, of_kind in names.items()}
    # Kinds without strides give boxes in pixels.
    strides = entry.get("strides", [1] * max(counts.values(), default=0))
    if set(counts.values()) != {len(strides)}:
        raise ModelFileError(
            "the manifest's detector names another number of outputs than of strides",
            received=f"{counts} for {len(strides)} strides",
        )
    return tuple(
        Level(stride, {kind: of_kind[k] for kind, of_kind in names.items()})
        for k, stride in enumerate(strides)
    )
