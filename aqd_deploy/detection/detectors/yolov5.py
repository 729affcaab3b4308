"""YOLOv5 and YOLOv7: anchors, with sides that can be up to four times as long."""

from __future__ import annotations

import numpy as np

from aqd_deploy.detection.detectors.anchor_maps import AnchorMaps
from aqd_deploy.detection.maps import sigmoid


class YoloV5(AnchorMaps):
    """The middle is (cell + 2σ(x) − ½)·stride, a side (2σ(w))²·anchor (`Detect` of YOLOv5)."""

    name = "yolov5"
    nms_iou = 0.45

    def geometry(self, terms: np.ndarray, cells: np.ndarray, stride: int) -> tuple[np.ndarray, np.ndarray]:
        doubled = 2 * sigmoid(terms)
        return (cells + doubled[:, :2] - 0.5) * stride, doubled[:, 2:] ** 2
