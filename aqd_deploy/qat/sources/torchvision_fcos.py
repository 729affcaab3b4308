"""FCOS of torchvision: `fcos_resnet50_fpn`, P6 from P5, group norm in the head, no level scales."""

from __future__ import annotations

from typing import Any

from aqd_deploy.detection.detectors.fcos import Fcos
from aqd_deploy.qat.config import STRIDES
from aqd_deploy.qat.sources.contract import Description, Source
from aqd_deploy.qat.sources.recipe import Recipe
from aqd_deploy.qat.sources.torchvision_family import describe
from aqd_deploy.qat.sources.weights import Weights

TOWERS = {"cls_tower": "head.classification_head.conv", "box_tower": "head.regression_head.conv"}
CLS = "head.classification_head.cls_logits"
BOX, CENTRE = "head.regression_head.bbox_reg", "head.regression_head.bbox_ctrness"


def _describe(weights: Weights, recipe: Recipe | None) -> Description:
    depth = sum(f"{TOWERS['cls_tower']}.{3 * index}.weight" in weights for index in range(64))
    names = {"head.cls_score": CLS, "head.bbox_pred": BOX, "head.centerness": CENTRE}
    for ours, theirs in TOWERS.items():
        for index in range(depth):
            names[f"head.{ours}.{index}.conv"] = f"{theirs}.{3 * index}"
            names[f"head.{ours}.{index}.norm"] = f"{theirs}.{3 * index + 1}"
    # It has no scales: their names are nobody's, and they are 1.
    names |= {f"head.scales.{level}": f"head.scales.{level}" for level in range(len(STRIDES))}
    fields: dict[str, Any] = {
        "classes": weights.channels(CLS)[0], "head_depth": depth, "head_norm": "group",
        "score_threshold": 0.2,
    }  # fmt: skip
    return describe(weights, recipe, Fcos.name, names, fields, p6_from="p5")


TORCHVISION_FCOS = Source(
    "FCOS of torchvision",
    marks=(f"{CLS}.weight", f"{CENTRE}.weight"),
    own=("backbone.", "head."),
    describe=_describe,
)
