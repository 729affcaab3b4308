"""How far variants of one network agree: float, fake-quantized, integer reference and program, run over the
same images. Outputs, accuracy, and how the outputs differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aqd_deploy.detection.dataset import AnnotatedImages, category_ids
from aqd_deploy.detection.decode import Detections, Postprocess
from aqd_deploy.detection.images import Placement, Preprocess, load_image
from aqd_deploy.detection.results import coco_results
from aqd_deploy.evaluation.coco import evaluate
from aqd_deploy.evaluation.compare import compare_integers, dequantize, float_agreement, total_difference

Outputs = list[dict[str, np.ndarray]]


@dataclass(frozen=True)
class ImageSet:
    """Images by file, decoded (uint8 [H, W, 3] RGB), with their COCO annotations where there are any."""

    files: list[Path]
    images: list[np.ndarray]
    annotations: dict[str, Any] | None

    @classmethod
    def load(cls, files: list[Path], annotations: dict[str, Any] | None = None) -> ImageSet:
        """Decode every file. With annotations only the annotated images count.

        Raises ImageError where no image is annotated, or annotations do not tell two of the files apart.
        """
        if annotations is not None:
            known = AnnotatedImages(annotations)
            ids, refused = known.assign([path for path in files if known.names(path)])
            for error in refused.values():
                raise error
            if not ids:
                raise next(iter(known.assign(files)[1].values()))
            files = list(ids)
        return cls(files, [load_image(path) for path in files], annotations)

    def tensors(self, manifest: dict[str, Any]) -> tuple[list[np.ndarray], list[Placement]]:
        """The network's inputs (uint8 [1, 3, H, W]) and where each image lies in its input."""
        preprocess = Preprocess.from_manifest(manifest)
        placed = [preprocess(image) for image in self.images]
        return [tensor for tensor, _ in placed], [placement for _, placement in placed]

    def average_precision(
        self, manifest: dict[str, Any], detections: list[Detections]
    ) -> dict[str, float] | None:
        """COCO metrics over these images, each in 0..1; None without annotations."""
        if self.annotations is None:
            return None
        ids = category_ids(manifest["detector"]["classes"], self.annotations)
        numbers, _ = AnnotatedImages(self.annotations).assign(self.files)
        found = zip(self.files, detections, strict=True)
        records = [r for path, each in found for r in coco_results(numbers[path], each, ids)]
        return evaluate(self.annotations, records, numbers.values())


def run_all(
    run: Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]], name: str, tensors: list[np.ndarray]
) -> Outputs:
    """The outputs of every input, one after the other."""
    return [run({name: tensor}) for tensor in tensors]


def detections_of(
    outputs: Outputs, manifest: dict[str, Any], placements: list[Placement]
) -> list[Detections]:
    """What each image's outputs mean."""
    postprocess = Postprocess.from_manifest(manifest)
    return [postprocess(each, placement) for each, placement in zip(outputs, placements, strict=True)]


def real_numbers(outputs: Outputs, manifest: dict[str, Any]) -> Outputs:
    """Integer outputs times their scales; float outputs as they are."""
    scales = {name: entry["scale"] for name, entry in manifest.get("outputs", {}).items()}
    return [dequantize(each, scales) if _is_integer(each) else each for each in outputs]


def correlation(first: Outputs, second: Outputs) -> dict[str, float]:
    """Agreement of all head outputs over all images: Pearson correlation, largest and mean absolute
    difference.
    """
    names = sorted(first[0])
    flat = [
        np.concatenate([each[name].ravel() for each in outputs for name in names])
        for outputs in (first, second)
    ]
    agreement = float_agreement(*flat)
    return {
        "correlation": float(agreement.correlation),
        "max_abs": float(agreement.max_abs),
        "mean_abs": float(agreement.mean_abs),
    }


def differing_integers(first: Outputs, second: Outputs) -> dict[str, int]:
    """How many integers of all outputs and images differ, of how many, and the largest difference."""
    totals = [total_difference(compare_integers(a, b)) for a, b in zip(first, second, strict=True)]
    return {
        "differing": sum(total.differing for total in totals),
        "count": sum(total.count for total in totals),
        "largest": max((total.largest for total in totals), default=0),
    }


def _is_integer(outputs: dict[str, np.ndarray]) -> bool:
    return all(np.issubdtype(array.dtype, np.integer) for array in outputs.values())
