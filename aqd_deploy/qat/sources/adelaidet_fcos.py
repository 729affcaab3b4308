"""FCOS of AdelaiDet, float with group norm, and of AQD's authors, with quantizers and a batch norm a level.

Read of their public code: adet/modeling/fcos/fcos.py, adet/modeling/backbone/fpn.py.
"""

from __future__ import annotations

from typing import Any

from aqd_deploy.detection.detectors.fcos import Fcos
from aqd_deploy.qat.sources.contract import Description, Source
from aqd_deploy.qat.sources.detectron2_family import HeadNames, describe
from aqd_deploy.qat.sources.recipe import Recipe
from aqd_deploy.qat.sources.weights import Weights

HEAD = "proposal_generator.fcos_head."


def _fields(weights: Weights, _: Recipe | None) -> dict[str, Any]:
    return {"classes": weights.channels(f"{HEAD}cls_logits")[0]}


_HEAD = HeadNames(
    detector=Fcos.name,
    towers={"cls_tower": f"{HEAD}cls_tower", "box_tower": f"{HEAD}bbox_tower"},
    predictions={
        "cls_score": f"{HEAD}cls_logits",
        "bbox_pred": f"{HEAD}bbox_pred",
        "centerness": f"{HEAD}ctrness",
    },
    scales=f"{HEAD}scales",
    p6_from="p5",
    fields=_fields,
)


def _describe(weights: Weights, recipe: Recipe | None) -> Description:
    return describe(weights, recipe, _HEAD)


ADELAIDET_FCOS = Source(
    "FCOS of AdelaiDet",
    marks=(f"{HEAD}cls_tower.0.weight", f"{HEAD}ctrness.weight"),
    own=("backbone.", HEAD),
    describe=_describe,
)
