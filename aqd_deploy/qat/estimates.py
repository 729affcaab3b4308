"""When a training estimates densities anew, and how: the schedule of `aqd_deploy.qat.gaussian_quantizers`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from aqd_deploy.errors import TrainingError
from aqd_deploy.qat.distributed import distributed
from aqd_deploy.qat.gaussian_quantizers import GaussianActivationQuantizer, GaussianWeightQuantizer
from aqd_deploy.qat.layers import QuantConv2d

ESTIMATES = 40
SETTLED = 0.8
MOST_VALUES = 16384


def due(iteration: int, iterations: int) -> bool:
    """Whether densities are estimated before this iteration of so many."""
    every = max(1, int(SETTLED * iterations / ESTIMATES))
    return iteration > 0 and iteration % every == 0 and iteration <= SETTLED * iterations


def estimate(model: nn.Module, inputs: Tensor) -> None:
    """Estimates the densities anew of every quantizer of `model` that follows from them; `inputs` are those
    of the network, float32 [N, 3, H, W]. Under `torchrun` ν is the mean over all processes. Batch norms keep
    their statistics, and the model its mode.

    Raises TrainingError where an activation is not finite.
    """
    activations = [each for each in model.modules() if isinstance(each, GaussianActivationQuantizer)]
    convolutions = [
        each
        for each in model.modules()
        if isinstance(each, QuantConv2d) and isinstance(each.weight_quantizer, GaussianWeightQuantizer)
    ]
    for convolution in convolutions:
        assert convolution.weight_quantizer is not None
        convolution.weight_quantizer.initialize(convolution.weight)
    if not activations:
        return
    with _sampled(activations) as samples, _evaluating(model), torch.no_grad():
        model(inputs)
    for quantizer in activations:
        if quantizer in samples:
            values = torch.cat(samples[quantizer])
            if not bool(torch.isfinite(values).all()):
                raise TrainingError(
                    "the activations are not finite",
                    next_command="the same run with a lower learning rate or a longer warm-up",
                )
            quantizer.approach(values)
    _average([quantizer.nu for quantizer in activations])


@contextmanager
def _sampled(quantizers: list[GaussianActivationQuantizer]) -> Iterator[dict[nn.Module, list[Tensor]]]:
    """A block in which what every quantizer is given is sampled, evenly spread, call by call."""
    samples: dict[nn.Module, list[Tensor]] = {}

    def keep(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        flat = inputs[0].detach().flatten()
        samples.setdefault(module, []).append(flat[:: -(-flat.numel() // MOST_VALUES) or 1])

    hooks = [quantizer.register_forward_pre_hook(keep) for quantizer in quantizers]
    try:
        yield samples
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """A block in which batch norms use their running statistics and keep them."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _average(values: list[nn.Parameter]) -> None:
    """Each value, its mean over all processes."""
    if not distributed():
        return
    with torch.no_grad():
        together = torch.stack(list(values))
        dist.all_reduce(together)
        for value, mean in zip(values, together / dist.get_world_size(), strict=True):
            value.copy_(mean)
