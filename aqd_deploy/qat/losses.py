"""The losses of the two detectors: focal loss, GIoU and centerness for FCOS, smooth L1 for RetinaNet."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from aqd_deploy.qat.assign import IGNORED, assign_fcos, assign_retinanet, centreness, flatten_maps
from aqd_deploy.qat.config import ModelConfig
from aqd_deploy.qat.distributed import distributed

FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0
SMOOTH_L1_BETA = 0.1


def sigmoid_focal_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Σ α_t·(1 - p_t)^γ·BCE (Lin et al. 2017, α = 0.25, γ = 2) over logits and 0/1 targets of one shape."""
    probability = torch.sigmoid(logits)
    loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    miss = probability + targets - 2 * probability * targets
    weight = (1 - FOCAL_ALPHA) + (2 * FOCAL_ALPHA - 1) * targets
    return (weight * miss**FOCAL_GAMMA * loss).sum()


def giou_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """1 - GIoU (Rezatofighi et al. 2019) of (l, t, r, b) [n, 4] about the same point, float32 [n]."""
    predicted_area = (predicted[:, 0] + predicted[:, 2]) * (predicted[:, 1] + predicted[:, 3])
    target_area = (target[:, 0] + target[:, 2]) * (target[:, 1] + target[:, 3])
    common, hull = torch.minimum(predicted, target), torch.maximum(predicted, target)
    overlap = (common[:, 0] + common[:, 2]) * (common[:, 1] + common[:, 3])
    enclosing = ((hull[:, 0] + hull[:, 2]) * (hull[:, 1] + hull[:, 3])).clamp(min=1e-7)
    union = (predicted_area + target_area - overlap).clamp(min=1e-7)
    return 1 - overlap / union + (enclosing - union) / enclosing


def _mean_over_processes(total: Tensor) -> Tensor:
    """The sum over all processes divided by their number, at least 1: the same normaliser everywhere."""
    total = total.detach().clone()
    if distributed():
        dist.all_reduce(total)
        total /= dist.get_world_size()
    return total.clamp(min=1.0)


def _classification_loss(logits: Tensor, label: Tensor, normalizer: Tensor) -> Tensor:
    kept = label != IGNORED
    logits, label = logits[kept], label[kept]
    targets = torch.zeros_like(logits)
    positive = torch.nonzero(label >= 0).squeeze(1)
    targets[positive, label[positive]] = 1.0
    return sigmoid_focal_loss(logits, targets) / normalizer


def fcos_loss(
    config: ModelConfig, outputs: dict[str, Tensor], boxes: Tensor, labels: Tensor
) -> dict[str, Tensor]:
    """`cls`, `box` and `ctr` of a batch; boxes float32 [N, M, 4], labels int64 [N, M], -1 where unused."""
    targets = assign_fcos(config, boxes, labels)
    positive = targets.label >= 0
    normalizer = _mean_over_processes(positive.sum().float())
    wanted = targets.box[positive]
    quality = centreness(wanted)
    predicted = flatten_maps(outputs, "box", 4, config.levels)[positive]
    ctr = flatten_maps(outputs, "ctr", 1, config.levels).squeeze(-1)[positive]
    logits = flatten_maps(outputs, "cls", config.classes, config.levels)
    return {
        "cls": _classification_loss(logits, targets.label, normalizer),
        "box": (giou_loss(predicted, wanted) * quality).sum() / _mean_over_processes(quality.sum()),
        "ctr": F.binary_cross_entropy_with_logits(ctr, quality, reduction="sum") / normalizer,
    }


def retinanet_loss(
    config: ModelConfig, outputs: dict[str, Tensor], boxes: Tensor, labels: Tensor
) -> dict[str, Tensor]:
    """`cls` and `box` of a batch; boxes float32 [N, M, 4], labels int64 [N, M], -1 where unused."""
    targets = assign_retinanet(config, boxes, labels)
    positive = targets.label >= 0
    normalizer = _mean_over_processes(positive.sum().float())
    logits = flatten_maps(outputs, "cls", config.classes, config.levels)
    predicted = flatten_maps(outputs, "box", 4, config.levels)[positive]
    box = F.smooth_l1_loss(predicted, targets.box[positive], beta=SMOOTH_L1_BETA, reduction="sum")
    return {"cls": _classification_loss(logits, targets.label, normalizer), "box": box / normalizer}


def detection_loss(
    config: ModelConfig, outputs: dict[str, Tensor], boxes: Tensor, labels: Tensor
) -> dict[str, Tensor]:
    """The losses of the configuration's detector, by name; their sum is what is trained."""
    loss = fcos_loss if config.detector == "fcos" else retinanet_loss
    return loss(config, outputs, boxes, labels)
