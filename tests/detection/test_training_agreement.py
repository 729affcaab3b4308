"""What training teaches a network is what decoding reads: perfect targets decode to the labelled boxes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from aqd_deploy.detection.dataset import category_ids  # noqa: E402
from aqd_deploy.detection.decode import decode  # noqa: E402
from aqd_deploy.detection.images import Placement  # noqa: E402
from aqd_deploy.detection.results import coco_results  # noqa: E402
from aqd_deploy.evaluation.coco import evaluate  # noqa: E402
from aqd_deploy.frontends.torch_qdq import make_manifest  # noqa: E402
from aqd_deploy.qat.config import ModelConfig  # noqa: E402
from aqd_deploy.qat.detectors.fcos import assign_fcos, centreness  # noqa: E402
from aqd_deploy.qat.detectors.retinanet import anchors_per_cell, assign_retinanet  # noqa: E402

ANNOTATIONS = Path(__file__).resolve().parents[2] / "examples" / "digits" / "images" / "annotations.json"


def perfect_outputs(config, boxes, labels):
    """Head outputs float32 of a network that says exactly its training targets."""
    fcos = config.detector == "fcos"
    targets = (assign_fcos if fcos else assign_retinanet)(config, boxes[None], labels[None])
    label, box = targets.label[0], torch.nan_to_num(targets.box[0])
    scores = torch.where(label[:, None] == torch.arange(config.classes), 8.0, -8.0)
    per_cell, start, outputs = 1 if fcos else anchors_per_cell(config), 0, {}
    for level, stride in zip(config.levels, config.strides, strict=True):
        rows, columns = -(-config.image_height // stride), -(-config.image_width // stride)
        end = start + rows * columns * per_cell
        parts = {"cls": scores[start:end], "box": box[start:end]}
        if fcos:
            parts["ctr"] = torch.logit(centreness(parts["box"]).clamp(1e-4, 1 - 1e-4))[:, None]
        for kind, values in parts.items():
            maps = values.reshape(rows, columns, -1).permute(2, 0, 1)[None]
            outputs[f"{kind}_{level}"] = maps.contiguous().numpy().astype(np.float32)
        start = end
    assert start == len(label)
    return outputs


LISTED = tuple(
    tuple((4.0 * stride * side, 3.0 * stride * side) for side in (1.0, 1.3, 1.6))
    for stride in ModelConfig().strides
)


@pytest.mark.parametrize(
    ("detector", "changes"),
    [
        ("fcos", {}),
        ("fcos", {"cell_offset": 0.0}),
        ("retinanet", {}),
        ("retinanet", {"cell_offset": 0.0, "anchor_sides": LISTED}),
    ],
)
def test_perfect_targets_have_perfect_precision(detector, changes):
    document = json.loads(ANNOTATIONS.read_text())
    names = tuple(category["name"] for category in document["categories"])
    config = ModelConfig(
        detector=detector, classes=len(names), class_names=names, image_height=160, image_width=160,
        **changes,
    )  # fmt: skip
    manifest = make_manifest(config)
    ids = category_ids(names, document)
    results = []
    for image in document["images"]:
        own = [entry for entry in document["annotations"] if entry["image_id"] == image["id"]]
        boxes = torch.tensor([entry["bbox"] for entry in own])
        boxes[:, 2:] += boxes[:, :2]
        labels = torch.tensor([ids.index(entry["category_id"]) for entry in own])
        outputs = perfect_outputs(config, boxes, labels)
        results += coco_results(
            image["id"], decode(outputs, manifest, Placement(160, 160, 0, 0, 160, 160)), ids
        )
    measured = evaluate(document, results)
    assert measured["AP"] == pytest.approx(1.0)
