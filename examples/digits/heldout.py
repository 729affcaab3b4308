"""Average precision of a detector in torch on the held-out digits, by the library's own decoder."""

from __future__ import annotations

from typing import Any

import compose
import numpy as np
import torch

from aqd_deploy.detection.decode import decode
from aqd_deploy.detection.images import Placement
from aqd_deploy.detection.results import coco_results
from aqd_deploy.evaluation.coco import evaluate
from aqd_deploy.frontends.torch_qdq import make_manifest
from aqd_deploy.qat.models import Detector

IMAGES_AT_ONCE = 20


def annotations(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """The COCO annotations document of composed arrays (see `data.compose_arrays`)."""
    count, _, height, width = arrays["images"].shape
    records: list[dict] = []
    for index in range(count):
        used = arrays["labels"][index] >= 0
        records += compose.coco_annotations(
            index, arrays["boxes"][index][used], arrays["labels"][index][used], first_id=len(records) + 1
        )
    return {
        "images": [{"id": index, "width": width, "height": height} for index in range(count)],
        "annotations": records,
        "categories": [{"id": k, "name": name} for k, name in enumerate(compose.CLASSES)],
    }


def average_precision(model: Detector, arrays: dict[str, np.ndarray]) -> dict[str, float]:
    """AP, AP50, AP75, APs, APm, APl in 0..1 of `model` on composed arrays."""
    manifest = make_manifest(model.config)
    count, _, height, width = arrays["images"].shape
    placement = Placement(width, height, 0, 0, width, height)
    results: list[dict[str, Any]] = []
    for start in range(0, count, IMAGES_AT_ONCE):
        pixels = torch.from_numpy(np.array(arrays["images"][start : start + IMAGES_AT_ONCE]))
        with torch.no_grad():
            maps = {name: value.numpy() for name, value in model(model.preprocess(pixels)).items()}
        for k in range(len(pixels)):
            one = {name: value[k : k + 1] for name, value in maps.items()}
            results += coco_results(start + k, decode(one, manifest, placement))
    return evaluate(annotations(arrays), results)
