"""RetinaNet of torchvision: `retinanet_resnet50_fpn` (P6 from P5, no norms in the head) and its second
version (P6 from C5, group norm).

Read of its public code: torchvision/models/detection/{retinanet,anchor_utils}.py.
"""

from __future__ import annotations

import math
from typing import Any

from aqd_deploy.detection.detectors.retinanet import RetinaNet
from aqd_deploy.errors import CheckpointError
from aqd_deploy.qat.config import STRIDES
from aqd_deploy.qat.sources.contract import Description, Source
from aqd_deploy.qat.sources.recipe import Recipe
from aqd_deploy.qat.sources.torchvision_family import describe
from aqd_deploy.qat.sources.weights import Weights

TOWERS = {"cls_tower": "head.classification_head.conv", "box_tower": "head.regression_head.conv"}
CLS, BOX = "head.classification_head.cls_logits", "head.regression_head.bbox_reg"
RATIOS = (0.5, 1.0, 2.0)


def anchor_sides() -> tuple[tuple[tuple[float, float], ...], ...]:
    """Anchors of sizes s, ⌊s·2^(1/3)⌋, ⌊s·2^(2/3)⌋ for s of four strides; halves of sides are rounded."""
    levels = []
    for stride in STRIDES:
        sizes = [int(4 * stride * 2 ** (third / 3)) for third in range(3)]
        sides = [(size / math.sqrt(ratio), size * math.sqrt(ratio)) for ratio in RATIOS for size in sizes]
        levels.append(tuple((2.0 * round(width / 2), 2.0 * round(height / 2)) for width, height in sides))
    return tuple(levels)


def _describe(weights: Weights, recipe: Recipe | None) -> Description:
    sides = anchor_sides()
    anchors = weights.channels(BOX)[0] // 4
    classes, rest = divmod(weights.channels(CLS)[0], max(anchors, 1))
    if anchors != len(sides[0]) or rest:
        raise CheckpointError(
            f"the head of {weights.owner} does not have torchvision's anchors",
            received=f"{anchors} anchors a cell", valid=f"{len(sides[0])}",
        )  # fmt: skip
    # Weights that were published before 0.13 are the ones that torchvision runs with an epsilon of 0.
    old = f"{TOWERS['cls_tower']}.0.weight" in weights
    group = f"{TOWERS['cls_tower']}.0.1.weight" in weights
    depth = weights.count(f"{TOWERS['cls_tower']}.{{}}.0.weight")
    names = {"head.cls_score": CLS, "head.bbox_pred": BOX}
    if old:
        depth = sum(f"{TOWERS['cls_tower']}.{2 * index}.weight" in weights for index in range(64))
    for ours, theirs in TOWERS.items():
        for index in range(depth):
            place = f"{theirs}.{2 * index}" if old else f"{theirs}.{index}.0"
            names[f"head.{ours}.{index}.conv"] = place
            if group:
                names[f"head.{ours}.{index}.norm"] = f"{theirs}.{index}.1"
    fields: dict[str, Any] = {
        "classes": classes, "head_depth": depth, "head_norm": "group" if group else "none",
        "anchor_sides": sides, "max_detections": 300,
    }  # fmt: skip
    epsilon = 0.0 if old else 1e-5
    notes = (f"the epsilon of batch norms is taken as {epsilon:g}",)
    return describe(
        weights, recipe, RetinaNet.name, names, fields, p6_from="c5" if group else "p5", epsilon=epsilon,
        notes=notes,
    )  # fmt: skip


TORCHVISION_RETINANET = Source(
    "RetinaNet of torchvision",
    marks=(f"{CLS}.weight", f"{BOX}.weight"),
    strangers=("head.regression_head.bbox_ctrness.weight",),
    own=("backbone.", "head."),
    describe=_describe,
)
