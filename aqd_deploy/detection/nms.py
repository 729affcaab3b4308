"""Class-wise non-maximum suppression in numpy."""

from __future__ import annotations

import numpy as np


def class_wise_nms(
    boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, iou: float, most: int
) -> np.ndarray:
    """Indices int64 [k], k ≤ `most`, of the boxes kept, by falling score (ties: the lower index first).

    boxes [n, 4] (x1, y1, x2, y2), scores [n], labels [n]. Greedy: the best box left is kept and every box of
    its class whose IoU with it is greater than `iou` is dropped. Going over all classes at once and stopping
    at `most` keeps what class by class with a cut at the end would, and takes at most `most` rounds of vector
    operations.
    """
    order = np.argsort(-scores, kind="stable")
    boxes, labels = boxes[order].astype(np.float64), labels[order]
    x1, y1, x2, y2 = boxes.T
    areas = (x2 - x1) * (y2 - y1)
    left = np.arange(len(order))
    kept: list[int] = []
    while len(left) and len(kept) < most:
        best, left = left[0], left[1:]
        kept.append(order[best])
        width = np.minimum(x2[best], x2[left]) - np.maximum(x1[best], x1[left])
        height = np.minimum(y2[best], y2[left]) - np.maximum(y1[best], y1[left])
        overlap = np.maximum(width, 0) * np.maximum(height, 0)
        # overlap > iou·union, without dividing by the union of two empty boxes.
        duplicate = overlap > iou * (areas[best] + areas[left] - overlap)
        left = left[~(duplicate & (labels[left] == labels[best]))]
    return np.array(kept, dtype=np.int64)
