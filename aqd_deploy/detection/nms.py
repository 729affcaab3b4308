"""Class-wise non-maximum suppression in numpy."""

from __future__ import annotations

import numpy as np

BLOCK = 256


def class_wise_nms(
    boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, iou: float, most: int
) -> np.ndarray:
    """Indices int64 [k], k ≤ `most`, of the boxes kept, by falling score (ties: the lower index first).

    boxes [n, 4] (x1, y1, x2, y2), scores [n], labels [n]. Greedy: the best box left is kept and every box of
    its class whose IoU with it is greater than `iou` is dropped. Going over all classes at once and stopping
    at `most` keeps what class by class with a cut at the end would.
    """
    order = np.argsort(-scores, kind="stable")
    boxes = boxes.astype(np.float64)
    kept: list[int] = []
    # Blocks, because all pairs of many boxes take much memory and one box against the rest many numpy calls.
    for start in range(0, len(order), BLOCK):
        block = order[start : start + BLOCK]
        earlier = _duplicates(boxes, labels, np.array(kept, dtype=np.int64), block, iou)
        alive = np.logical_not(np.any(earlier, axis=0))
        within = _duplicates(boxes, labels, block, block, iou)
        for position, index in enumerate(block.tolist()):
            if alive[position]:
                kept.append(index)
                if len(kept) == most:
                    return np.array(kept, dtype=np.int64)
                alive &= ~within[position]
    return np.array(kept, dtype=np.int64)


def _duplicates(
    boxes: np.ndarray, labels: np.ndarray, first: np.ndarray, second: np.ndarray, iou: float
) -> np.ndarray:
    """bool [len(first), len(second)]: of one class and with an IoU greater than `iou`."""
    ax1, ay1, ax2, ay2 = boxes[first].T[:, :, None]
    bx1, by1, bx2, by2 = boxes[second].T[:, None]
    width = np.minimum(ax2, bx2) - np.maximum(ax1, bx1)
    height = np.minimum(ay2, by2) - np.maximum(ay1, by1)
    overlap = np.maximum(width, 0) * np.maximum(height, 0)
    union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - overlap
    # overlap > iou·union, without dividing by the union of two empty boxes.
    return np.logical_and(overlap > iou * union, labels[first][:, None] == labels[second])
