"""YOLOv3 (Redmon and Farhadi, arXiv 1804.02767) as Darknet's [yolo] computes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np

from aqd_deploy.detection.detectors.anchor_maps import AnchorMaps
from aqd_deploy.detection.detectors.retinanet import LARGEST_LOG_SIDE, level_sides
from aqd_deploy.detection.maps import sigmoid
from aqd_deploy.errors import ModelFileError
from aqd_deploy.schema import Check, list_of, number


@dataclass(frozen=True)
class YoloV3(AnchorMaps):
    """The middle is (cell + σ(x))·stride, a side exp(w)·anchor.

    `scale_xy` are the scale_x_y of YOLOv4 by stride: σ is stretched by it about 0.5.
    """

    name = "yolov3"
    nms_iou = 0.45
    optional_keys: ClassVar[Mapping[str, Check]] = {"scale_xy": list_of(number(1, 2), 1)}

    scale_xy: Mapping[int, float] = field(kw_only=True)

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Self:
        strides = entry["strides"]
        scales = entry.get("scale_xy", [1.0] * len(strides))
        if len(scales) != len(strides):
            raise ModelFileError(
                "the manifest's scale_xy are not one for each stride", received=len(scales),
                valid=f"{len(strides)} numbers",
            )  # fmt: skip
        sides = level_sides(entry["anchors"], strides)
        return cls(len(entry["classes"]), sides=sides, scale_xy=dict(zip(strides, scales, strict=True)))

    def geometry(self, terms: np.ndarray, cells: np.ndarray, stride: int) -> tuple[np.ndarray, np.ndarray]:
        scale = self.scale_xy[stride]
        middles = (cells + sigmoid(terms[:, :2]) * scale - (scale - 1) / 2) * stride
        return middles, np.exp(np.minimum(terms[:, 2:], LARGEST_LOG_SIDE))
