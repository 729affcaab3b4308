"""The training loop: warm-up and cosine, resumable at every checkpoint, on one process or under `torchrun`.

A batch depends on the iteration's number only, so a resumed run sees what the uninterrupted one would have
seen.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from aqd_deploy.errors import CheckpointError
from aqd_deploy.qat.checkpoint import read_archive, write_archive
from aqd_deploy.qat.distributed import average_gradients, distributed
from aqd_deploy.qat.layers import synchronize_batch_norm
from aqd_deploy.qat.losses import detection_loss
from aqd_deploy.qat.models import Detector

# (iteration, rank, world) -> images uint8 [N, 3, H, W] BGR, boxes float32 [N, M, 4], labels int64 [N, M]
# (-1 in unused places)
BatchSource = Callable[[int, int, int], tuple[Tensor, Tensor, Tensor]]


@dataclass(frozen=True)
class TrainSettings:
    """How long and how fast: `batch` is that of one process; learning rates fall on a cosine to zero."""

    iterations: int
    learning_rate: float = 1e-3
    weight_decay: float = 0.02
    warmup: int = 200
    clip_norm: float = 10.0
    seed: int = 0
    log_every: int = 50
    checkpoint_every: int = 200


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


def train(model: Detector, source: BatchSource, settings: TrainSettings, run_folder: Path) -> Detector:
    """Trains `model` in place; `source(iteration, rank, world)` gives the batch of one process.

    Continues from `run_folder/last.pt` where there is one. CheckpointError if that file is damaged or of
    another network. Under `torchrun` batch norms use the statistics of all processes and gradients are
    averaged.
    """
    torch.manual_seed(settings.seed)
    rank, world = (dist.get_rank(), dist.get_world_size()) if distributed() else (0, 1)
    if world > 1:
        synchronize_batch_norm(model)
    model.train()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = make_optimizer(model, settings)
    last = run_folder / "last.pt"
    start = _resume(last, model, optimizer, settings) if last.exists() else 0
    progress = _Progress(model.config.label, start, settings, silent=rank > 0)
    for iteration in range(start, settings.iterations):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * learning_rate_factor(iteration, settings)
        images, boxes, labels = source(iteration, rank, world)
        losses = train_step(model, optimizer, images, boxes, labels, settings.clip_norm)
        progress.report(iteration, losses, len(images) * world)
        done = iteration + 1
        if rank == 0 and (done % settings.checkpoint_every == 0 or done == settings.iterations):
            _save_progress(last, model, optimizer, done, settings)
    model.eval()
    return model


def train_step(
    model: Detector,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    boxes: Tensor,
    labels: Tensor,
    clip_norm: float,
) -> dict[str, float]:
    """One step on one batch; returns the losses by name. RuntimeError when the loss is not finite."""
    outputs = model(model.preprocess(images).contiguous(memory_format=torch.channels_last))
    losses = detection_loss(model.config, outputs, boxes, labels)
    total = torch.stack(list(losses.values())).sum()
    if not bool(torch.isfinite(total)):
        raise RuntimeError("the loss is not finite: lower the learning rate")
    optimizer.zero_grad(set_to_none=True)
    total.backward()
    average_gradients(model)
    nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    optimizer.step()
    return {name: float(value.detach()) for name, value in losses.items()}


def _save_progress(
    path: Path, model: Detector, optimizer: torch.optim.Optimizer, iteration: int, settings: TrainSettings
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "config": model.config.to_json(),
        "iterations": settings.iterations,
        "iteration": iteration,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "rng": torch.get_rng_state(),
    }
    write_archive(path, content)


def _resume(path: Path, model: Detector, optimizer: torch.optim.Optimizer, settings: TrainSettings) -> int:
    """Loads a run's progress and returns the number of iterations done."""
    content = read_archive(path)
    if content.get("config") != model.config.to_json() or content.get("iterations") != settings.iterations:
        raise CheckpointError(
            f"{path} belongs to another run (network or schedule differ)",
            next_command=f"remove {path} to start anew",
        )
    model.load_state_dict(content["model"])
    optimizer.load_state_dict(content["optimizer"])
    torch.set_rng_state(content["rng"])
    return int(content["iteration"])


class _Progress:
    """On a terminal one line that changes, otherwise one line every `log_every` iterations; on stderr."""

    def __init__(self, label: str, start: int, settings: TrainSettings, silent: bool) -> None:
        self.label, self.start, self.settings, self.silent = label, start, settings, silent
        self.terminal = sys.stderr.isatty() and "NO_COLOR" not in os.environ
        self.began = time.monotonic()
        self.images = 0
        self.smooth: dict[str, float] = {}

    def report(self, iteration: int, losses: dict[str, float], images: int) -> None:
        if self.silent:
            return
        self.images += images
        for name, value in losses.items():
            self.smooth[name] = 0.95 * self.smooth.get(name, value) + 0.05 * value
        done, total = iteration + 1, self.settings.iterations
        if not (self.terminal or done % self.settings.log_every == 0 or done == total):
            return
        elapsed = max(time.monotonic() - self.began, 1e-9)
        left = elapsed / (done - self.start) * (total - done)
        values = " ".join(f"{name} {value:.3f}" for name, value in self.smooth.items())
        line = (
            f"{self.label} {done}/{total}  {values}  {self.images / elapsed:.1f} images/s  {left:.0f} s left"
        )
        end = "\n" if not self.terminal or done == total else ""
        print(f"\r{line}" if self.terminal else line, end=end, file=sys.stderr, flush=True)
