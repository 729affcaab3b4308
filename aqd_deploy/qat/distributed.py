"""Synchronised batch statistics for training on several processes.

torch's own SyncBatchNorm has GPU kernels only; this one runs on any backend that can all-reduce, gloo
included.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def distributed() -> bool:
    """Whether this process belongs to a group of more than one."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


class _SumOverProcesses(torch.autograd.Function):
    """The sum of a tensor over all processes; each process' gradient is the sum of all gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total


def synchronized_statistics(x: Tensor, synchronized: bool) -> tuple[Tensor, Tensor, int]:
    """Mean and biased variance per channel (float32 [C]) of x [N, C, H, W], and how many values they are of.

    With `synchronized`, over the batches of all processes, with gradients. Two passes (mean, then squared
    distances), because E[x²] - E[x]² loses the variance of a channel whose mean is large.
    """
    count = x.numel() // x.shape[1]
    if not (synchronized and distributed()):
        variance, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
        return mean, variance, count
    total = torch.tensor(float(count), device=x.device)
    dist.all_reduce(total)
    mean = _SumOverProcesses.apply(x.sum(dim=(0, 2, 3))) / total
    centred = x - mean.reshape(1, -1, 1, 1)
    variance = _SumOverProcesses.apply((centred * centred).sum(dim=(0, 2, 3))) / total
    return mean, variance, int(total)


def average_gradients(model: nn.Module) -> None:
    """Replaces each gradient by its mean over all processes; missing ones count as 0."""
    if not distributed():
        return
    parameters = [p for p in model.parameters() if p.requires_grad]
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    flat = torch.cat([p.grad.reshape(-1) for p in parameters])  # type: ignore[union-attr]
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    offset = 0
    for parameter in parameters:
        size = parameter.numel()
        parameter.grad = flat[offset : offset + size].reshape(parameter.shape).clone()
        offset += size


def finite_everywhere(value: Tensor) -> bool:
    """Whether a scalar is finite on every process."""
    finite = torch.isfinite(value.detach()).float()
    if distributed():
        dist.all_reduce(finite, op=dist.ReduceOp.MIN)
    return bool(finite)
