"""The losses that detectors are trained with, and how they are normalised.

Their shapes do not depend on the objects in a batch: a card never waits for a count, and a training step can
be captured as a CUDA graph.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from aqd_deploy.qat.assign import IGNORED
from aqd_deploy.qat.distributed import distributed

FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0


def sigmoid_focal_loss(logits: Tensor, targets: Tensor, kept: Tensor | float = 1.0) -> Tensor:
    """Σ α_t·(1 - p_t)^γ·BCE (Lin et al. 2017, α = 0.25, γ = 2) over logits and 0/1 targets of one shape;
    `kept` is 0 where one does not count.
    """
    probability = torch.sigmoid(logits)
    loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    miss = probability + targets - 2 * probability * targets
    weight = (1 - FOCAL_ALPHA) + (2 * FOCAL_ALPHA - 1) * targets
    return (weight * miss**FOCAL_GAMMA * loss * kept).sum()


def giou_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """1 - GIoU (Rezatofighi et al. 2019) of (l, t, r, b) [n, 4] about the same point, float32 [n]."""
    predicted_area = (predicted[:, 0] + predicted[:, 2]) * (predicted[:, 1] + predicted[:, 3])
    target_area = (target[:, 0] + target[:, 2]) * (target[:, 1] + target[:, 3])
    common, hull = torch.minimum(predicted, target), torch.maximum(predicted, target)
    overlap = (common[:, 0] + common[:, 2]) * (common[:, 1] + common[:, 3])
    enclosing = ((hull[:, 0] + hull[:, 2]) * (hull[:, 1] + hull[:, 3])).clamp(min=1e-7)
    union = (predicted_area + target_area - overlap).clamp(min=1e-7)
    return 1 - overlap / union + (enclosing - union) / enclosing


def mean_over_processes(total: Tensor) -> Tensor:
    """The sum over all processes divided by their number, at least 1: the same normaliser everywhere."""
    total = total.detach().clone()
    if distributed():
        dist.all_reduce(total)
        total /= dist.get_world_size()
    return total.clamp(min=1.0)


def classification_loss(logits: Tensor, label: Tensor, normalizer: Tensor) -> Tensor:
    """Focal loss of logits [N, P, classes] for labels int64 [N, P], without those that are IGNORED."""
    targets = (label[..., None] == torch.arange(logits.shape[-1], device=label.device)).to(logits.dtype)
    kept = (label != IGNORED)[..., None].to(logits.dtype)
    return sigmoid_focal_loss(logits, targets, kept) / normalizer
