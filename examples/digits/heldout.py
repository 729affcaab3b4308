"""Average precision of a detector in torch on the held-out digits, by the library's own decoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import compose
import numpy as np
import torch

from aqd_deploy.detection.decode import Postprocess
from aqd_deploy.detection.images import Placement
from aqd_deploy.detection.results import coco_results
from aqd_deploy.evaluation.coco import evaluate
from aqd_deploy.frontends.torch_qdq import make_manifest
from aqd_deploy.qat.config import ModelConfig
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
    return precision_of(output_maps(model, arrays), model.config, arrays)


def output_maps(model: Detector, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What `model`, on any device, gives for all images: float32 [n, C, H, W] by name."""
    device = next(model.parameters()).device
    parts: list[dict[str, np.ndarray]] = []
    for start in range(0, len(arrays["images"]), IMAGES_AT_ONCE):
        pixels = torch.from_numpy(np.array(arrays["images"][start : start + IMAGES_AT_ONCE])).to(device)
        with torch.no_grad():
            parts.append({k: value.cpu().numpy() for k, value in model(model.preprocess(pixels)).items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def precision_of(
    maps: Mapping[str, np.ndarray], config: ModelConfig, arrays: dict[str, np.ndarray]
) -> dict[str, float]:
    """The average precisions of the maps of all images."""
    decode = Postprocess.from_manifest(make_manifest(config))
    count, _, height, width = arrays["images"].shape
    placement = Placement(width, height, 0, 0, width, height)
    results: list[dict[str, Any]] = []
    for index in range(count):
        one = {name: value[index : index + 1] for name, value in maps.items()}
        results += coco_results(index, decode(one, placement))
    return evaluate(annotations(arrays), results)
