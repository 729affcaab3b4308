"""The training loop: warm-up and cosine, resumable at every checkpoint, on one process or under `torchrun`.

A batch depends on the iteration's number only, so a resumed run sees what the uninterrupted one would have
seen.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from aqd_deploy.errors import TrainingError
from aqd_deploy.qat.batch import check_batch
from aqd_deploy.qat.detectors import detection_loss
from aqd_deploy.qat.distributed import average_gradients, distributed, finite_everywhere
from aqd_deploy.qat.estimates import due, estimate
from aqd_deploy.qat.layers import synchronize_batch_norm
from aqd_deploy.qat.models import Detector, unwrapped
from aqd_deploy.qat.run_state import TrainSettings, resume, save_progress
from aqd_deploy.qat.soundness import check_network

# (iteration, rank, world) -> images uint8 [N, 3, H, W] BGR, boxes float32 [N, M, 4], labels int64 [N, M]
# (-1 in unused places)
BatchSource = Callable[[int, int, int], tuple[Tensor, Tensor, Tensor]]


def learning_rate_factor(iteration: int, settings: TrainSettings) -> float:
    """Linear warm-up, then half a cosine from 1 to 0."""
    if iteration < settings.warmup:
        return (iteration + 1) / settings.warmup
    span = max(1, settings.iterations - settings.warmup)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (iteration - settings.warmup) / span)))


def make_optimizer(model: nn.Module, settings: TrainSettings) -> torch.optim.AdamW:
    """AdamW; only convolution and linear weights decay (not ν, biases or batch norms)."""
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate)


def train(model: nn.Module, source: BatchSource, settings: TrainSettings, run_folder: Path) -> Detector:
    """Trains `model` in place, on the device it is on, and returns it without what wraps it: a Detector, or
    one that torch.compile or DistributedDataParallel wraps. `source(iteration, rank, world)` gives the batch
    of one process.

    Continues from `run_folder/last.pt` where there is one, with `settings`; what they change is told.
    Raises what `resume` and `train_step` do, and CheckpointError or ScaleError for a network that is not
    fit to be trained or saved; `last.pt` then holds the last state that was.
    Under `torchrun` batch norms use the statistics of all processes and gradients are averaged.
    """
    network = unwrapped(model)
    check_network(network, "the network")
    torch.manual_seed(settings.seed)
    rank, world = (dist.get_rank(), dist.get_world_size()) if distributed() else (0, 1)
    if world > 1:
        synchronize_batch_norm(model)
    model.train()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = make_optimizer(model, settings)
    last = run_folder / "last.pt"
    start, changes = resume(last, model, optimizer, settings) if last.exists() else (0, [])
    progress = _Progress(network.config.label, start, settings, silent=rank > 0)
    if start:
        progress.say(f"continues after iteration {start}" + "".join(f", {change}" for change in changes))
    for iteration in range(start, settings.iterations):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * learning_rate_factor(iteration, settings)
        try:
            batch = check_batch(network.config, source(iteration, rank, world))
            if due(iteration, settings.iterations):
                estimate(network, _inputs(network, batch[0]))
            losses = _step(model, optimizer, batch, settings.clip_norm)
        except TrainingError as error:
            raise TrainingError(
                f"iteration {iteration}: {error.what}", received=error.received, valid=error.valid,
                next_command=error.next_command,
            ) from error  # fmt: skip
        progress.report(iteration, losses, len(batch[0]) * world)
        done = iteration + 1
        if rank == 0 and (done % settings.checkpoint_every == 0 or done == settings.iterations):
            save_progress(last, model, optimizer, done, settings)
    model.eval()
    return network


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    boxes: Tensor,
    labels: Tensor,
    clip_norm: float,
) -> dict[str, float]:
    """One step on one batch; returns the losses by name.

    Raises TrainingError for what `check_batch` refuses, where a batch norm has one value a channel, where
    nothing is trainable, and where the loss or the gradient, of any process, is not finite: the parameters
    and statistics are as they were.
    """
    return _step(model, optimizer, check_batch(unwrapped(model).config, (images, boxes, labels)), clip_norm)


def _step(
    model: nn.Module, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, Tensor, Tensor], clip_norm: float
) -> dict[str, float]:
    with _statistics_kept(model):
        losses = _losses(model, batch)
        total = torch.stack(list(losses.values())).sum()
        if not total.requires_grad:
            raise TrainingError(
                "the network has no trainable parameter",
                next_command="parameter.requires_grad_(True) for those that training may change",
            )
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        average_gradients(model)
        norm = nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        # Clipping by an infinite norm makes NaN of what was infinite and 0 of all the rest.
        for value, name in ((total.detach(), "loss"), (norm, "gradient")):
            if not finite_everywhere(value):
                raise TrainingError(
                    f"the {name} is not finite",
                    next_command="the same run with a lower learning rate or a longer warm-up",
                )
    optimizer.step()
    return {name: float(value.detach()) for name, value in losses.items()}


@contextmanager
def _statistics_kept(model: nn.Module) -> Iterator[None]:
    """A block after whose failure the buffers of `model` (the running statistics) are as they were."""
    before = [buffer.clone() for buffer in model.buffers()]
    try:
        yield
    except BaseException:
        for buffer, value in zip(model.buffers(), before, strict=True):
            buffer.copy_(value)
        raise


def _losses(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
    network = unwrapped(model)
    device = next(network.parameters()).device
    images, boxes, labels = (value.to(device) for value in batch)
    inputs = _inputs(network, images)
    try:
        outputs = model(inputs)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise TrainingError(
            "the coarsest map of a batch has one value a channel, which has no variance",
            received=f"{len(images)} image of {images.shape[2]}x{images.shape[3]} (height x width)",
            valid="two images or more in a batch, or larger ones",
        ) from error
    return detection_loss(network.config, outputs, boxes, labels)


def _inputs(network: Detector, images: Tensor) -> Tensor:
    """What the network takes, on its device, of uint8 BGR pixels."""
    device = next(network.parameters()).device
    return network.preprocess(images.to(device)).contiguous(memory_format=torch.channels_last)


class _Progress:
    """On a terminal one line that changes, otherwise one line every `log_every` iterations; on stderr."""

    def __init__(self, label: str, start: int, settings: TrainSettings, silent: bool) -> None:
        self.label, self.start, self.settings, self.silent = label, start, settings, silent
        self.terminal = sys.stderr.isatty() and "NO_COLOR" not in os.environ
        self.began = time.monotonic()
        self.images = 0
        self.smooth: dict[str, float] = {}

    def say(self, text: str) -> None:
        if not self.silent:
            print(f"{self.label} {text}", file=sys.stderr, flush=True)

    def report(self, iteration: int, losses: dict[str, float], images: int) -> None:
        if self.silent:
            return
        self.images += images
        for name, value in losses.items():
            self.smooth[name] = 0.95 * self.smooth.get(name, value) + 0.05 * value
        done, total = iteration + 1, self.settings.iterations
        told = done % self.settings.log_every == 0 or done in (self.start + 1, total)
        if not (self.terminal or told):
            return
        elapsed = max(time.monotonic() - self.began, 1e-9)
        left = elapsed / (done - self.start) * (total - done)
        values = " ".join(f"{name} {value:.3f}" for name, value in self.smooth.items())
        line = (
            f"{self.label} {done}/{total}  {values}  {self.images / elapsed:.1f} images/s  {left:.0f} s left"
        )
        end = "\n" if not self.terminal or done == total else ""
        print(f"\r{line}" if self.terminal else line, end=end, file=sys.stderr, flush=True)
