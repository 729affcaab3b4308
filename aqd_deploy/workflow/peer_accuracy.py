"""Accuracy of the INT8 network that onnxruntime is timed with: what `quantize_static` makes of the float
network.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from aqd_deploy.bench.peers.onnxruntime import QDQ, QDQ_FILE
from aqd_deploy.evaluation.agreement import ImageSet, detections_of, run_all
from aqd_deploy.integer.reference import ReferenceRunner


def int8_file(kept: Path) -> Path | None:
    """The file among the models that `bench` kept in a folder of its own; None where none was made."""
    return next(kept.glob(f"*/{QDQ.name}--*/{QDQ_FILE}"), None)


def int8_accuracy(
    file: Path, images: ImageSet, manifest: dict[str, Any], threads: int | None
) -> dict[str, float] | None:
    """COCO metrics as `ImageSet.average_precision`, computed as it is timed: on CPUs whose sums of products
    saturate, with that. The input is (pixel − mean)/std, float32 [1, 3, H, W].
    """
    entry = manifest["preprocessing"]
    mean, std = (np.asarray(entry[key], np.float32).reshape(-1, 1, 1) for key in ("mean", "std"))
    pixels, placements = images.tensors(manifest)
    inputs = [(each.astype(np.float32) - mean) / std for each in pixels]
    outputs = run_all(ReferenceRunner(file, threads, unsigned_weights=False).run, entry["input"], inputs)
    return images.average_precision(manifest, detections_of(outputs, manifest, placements))
