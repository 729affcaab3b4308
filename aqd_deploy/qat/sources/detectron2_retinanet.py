"""RetinaNet of Detectron2, float, and of AQD's authors, with quantizers and a batch norm a level.

Read of their public code: detectron2/modeling/meta_arch/retinanet.py, modeling/anchor_generator.py.
"""

from __future__ import annotations

import math
from typing import Any

from aqd_deploy.detection.detectors.retinanet import RetinaNet
from aqd_deploy.errors import CheckpointError
from aqd_deploy.qat.config import STRIDES
from aqd_deploy.qat.sources.contract import Description, Source
from aqd_deploy.qat.sources.detectron2_family import HeadNames, describe
from aqd_deploy.qat.sources.recipe import Recipe
from aqd_deploy.qat.sources.weights import Weights

SIZES = [[4.0 * stride * 2 ** (third / 3) for third in range(3)] for stride in STRIDES]
RATIOS = [[0.5, 1.0, 2.0]]


def _fields(weights: Weights, recipe: Recipe | None) -> dict[str, Any]:
    anchors, rest = divmod(weights.channels("head.bbox_pred")[0], 4)
    sides = _sides(recipe)
    classes, none_left = divmod(weights.channels("head.cls_score")[0], max(anchors, 1))
    if rest or none_left or anchors != len(sides[0]):
        raise CheckpointError(
            f"the head of {weights.owner} does not have the anchors of its configuration",
            received=f"{anchors} anchors a cell", valid=f"{len(sides[0])}",
            next_command="aqd-deploy export CHECKPOINT --config F.yaml -o FILE, with ANCHOR_GENERATOR in it",
        )  # fmt: skip
    offset = recipe.get("MODEL.ANCHOR_GENERATOR.OFFSET") if recipe else None
    return {"classes": classes, "anchor_sides": sides, "cell_offset": 0.0 if offset is None else offset}


def _sides(recipe: Recipe | None) -> tuple[tuple[tuple[float, float], ...], ...]:
    """The anchors of each level as the head's channels have them: by size, then by height over width."""
    given = {key: recipe.get(f"MODEL.ANCHOR_GENERATOR.{key}") if recipe else None
             for key in ("SIZES", "ASPECT_RATIOS")}  # fmt: skip
    sizes = _for_levels(given["SIZES"] or SIZES)
    ratios = _for_levels(given["ASPECT_RATIOS"] or RATIOS)
    return tuple(
        tuple((size / math.sqrt(ratio), size * math.sqrt(ratio)) for size in level for ratio in shapes)
        for level, shapes in zip(sizes, ratios, strict=True)
    )


def _for_levels(values: list[Any]) -> list[list[float]]:
    """A list a level: one for all, or numbers, stand for every level."""
    lists = values if isinstance(values[0], list) else [values]
    lists = lists * len(STRIDES) if len(lists) == 1 else lists
    if len(lists) != len(STRIDES):
        raise CheckpointError(
            "the training configuration's anchors are not those of five levels", received=len(lists),
            valid=f"1 or {len(STRIDES)} lists",
        )  # fmt: skip
    return lists


_HEAD = HeadNames(
    detector=RetinaNet.name,
    towers={"cls_tower": "head.cls_subnet", "box_tower": "head.bbox_subnet"},
    predictions={"cls_score": "head.cls_score", "bbox_pred": "head.bbox_pred"},
    scales=None,
    p6_from="c5",
    fields=_fields,
)


def _describe(weights: Weights, recipe: Recipe | None) -> Description:
    return describe(weights, recipe, _HEAD)


DETECTRON2_RETINANET = Source(
    "RetinaNet of Detectron2",
    marks=("head.cls_subnet.0.weight", "head.bbox_pred.weight"),
    own=("backbone.", "head."),
    describe=_describe,
)
