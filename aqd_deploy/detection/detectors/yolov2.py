"""YOLOv2 (Redmon and Farhadi, arXiv 1612.08242) as Darknet's [region] computes it."""

from __future__ import annotations

import numpy as np

from aqd_deploy.detection.detectors.anchor_maps import AnchorMaps
from aqd_deploy.detection.detectors.objectness import softmax
from aqd_deploy.detection.detectors.retinanet import LARGEST_LOG_SIDE
from aqd_deploy.detection.maps import sigmoid


class YoloV2(AnchorMaps):
    """The middle is (cell + σ(x))·stride, a side exp(w)·anchor; the classes of an anchor share a softmax."""

    name = "yolov2"
    nms_iou = 0.45

    def chances(self, logits: np.ndarray) -> np.ndarray:
        """One of the classes, whatever it is."""
        return softmax(logits)

    def geometry(self, terms: np.ndarray, cells: np.ndarray, stride: int) -> tuple[np.ndarray, np.ndarray]:
        sides = np.exp(np.minimum(terms[:, 2:], LARGEST_LOG_SIDE))
        return (cells + sigmoid(terms[:, :2])) * stride, sides
