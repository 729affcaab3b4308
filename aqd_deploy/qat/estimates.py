"""When a training estimates densities anew, and how: the schedule of `aqd_deploy.qat.gaussian_quantizers`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from aqd_deploy.errors import TrainingError
from aqd_deploy.qat.distributed import distributed
from aqd_deploy.qat.gaussian_quantizers import (
    GaussianActivationQuantizer,
    GaussianWeightQuantizer,
    Problem,
    interval,
)
from aqd_deploy.qat.layers import QuantConv2d

Solver = Callable[[Callable[[Problem], float], list[Problem]], Iterable[float]]

ESTIMATES = 40
SETTLED = 0.8
MOST_VALUES = 16384


def due(iteration: int, iterations: int) -> bool:
    """Whether densities are estimated before this iteration of so many."""
    every = max(1, int(SETTLED * iterations / ESTIMATES))
    return iteration > 0 and iteration % every == 0 and iteration <= SETTLED * iterations


def follows_densities(model: nn.Module) -> bool:
    """Whether a quantizer of `model` does."""
    kinds = GaussianActivationQuantizer, GaussianWeightQuantizer
    return any(isinstance(module, kinds) for module in model.modules())


def estimate(model: nn.Module, inputs: Tensor, solve: Solver = map) -> None:
    """Estimates the densities anew of every quantizer of `model` that follows from them; `inputs` are those
    of the network, float32 [N, 3, H, W]. Under `torchrun` ν is the mean over all processes. Batch norms keep
    their statistics, and the model its mode. `solve` may share the fits among processes, as a pool's `map`.

    Raises TrainingError where an activation is not finite.
    """
    weights = [
        (conv.weight_quantizer, conv.weight)
        for conv in model.modules()
        if isinstance(conv, QuantConv2d) and isinstance(conv.weight_quantizer, GaussianWeightQuantizer)
    ]
    activations = _activations(model, inputs)
    problems = [quantizer.problem(quantizer.prepared(weight).flatten()) for quantizer, weight in weights]
    problems += [quantizer.problem(values) for quantizer, values in activations.items()]
    clips = list(solve(interval, problems))
    with torch.no_grad():
        for (quantizer, _), clip in zip(weights, clips[: len(weights)], strict=True):
            quantizer.nu.fill_(clip)
    for moving, clip in zip(activations, clips[len(weights) :], strict=True):
        moving.approach(clip)
    _average([moving.nu for moving in activations])


def _activations(model: nn.Module, inputs: Tensor) -> dict[GaussianActivationQuantizer, Tensor]:
    """Values in front of every quantizer that `inputs` reach, 1-D."""
    quantizers = [each for each in model.modules() if isinstance(each, GaussianActivationQuantizer)]
    if not quantizers:
        return {}
    with _sampled(quantizers) as samples, _evaluating(model), torch.no_grad():
        model(inputs)
    found = {quantizer: torch.cat(parts) for quantizer, parts in samples.items()}
    if not all(bool(torch.isfinite(values).all()) for values in found.values()):
        raise TrainingError(
            "the activations are not finite",
            next_command="the same run with a lower learning rate or a longer warm-up",
        )
    return found


@contextmanager
def _sampled(
    quantizers: list[GaussianActivationQuantizer],
) -> Iterator[dict[GaussianActivationQuantizer, list[Tensor]]]:
    """A block in which what every quantizer is given is sampled, evenly spread, call by call."""
    samples: dict[GaussianActivationQuantizer, list[Tensor]] = {}

    def keep(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        assert isinstance(module, GaussianActivationQuantizer)
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
    if not values or not distributed():
        return
    with torch.no_grad():
        together = torch.stack(list(values))
        dist.all_reduce(together)
        for value, mean in zip(values, together / dist.get_world_size(), strict=True):
            value.copy_(mean)
