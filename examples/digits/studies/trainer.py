"""Trains one arm by steps that a card can replay: everything of a step, its batch included, is on the device.

On a card the step is captured once as a CUDA graph, since so small a network is bound by the host that
launches its kernels; graphs of several arms then run beside each other on streams of their own. Without a
card the same step runs as it is. The losses, the optimizer's groups and the schedule are the library's.
"""

from __future__ import annotations

import contextlib

import torch
from batches import Draws, Images, batch_of
from torch import Tensor, nn

from aqd_deploy.qat.detectors import detection_loss
from aqd_deploy.qat.estimates import Solver, estimate, follows_densities
from aqd_deploy.qat.models import Detector
from aqd_deploy.qat.train import TrainSettings, learning_rate_factor, make_optimizer

WARM_STEPS = 3  # on a side stream, in front of a capture: what libraries allocate at first use
MOST_WARMUP = 200


def schedule(iterations: int, learning_rate: float, most: int, device: torch.device) -> Tensor:
    """The learning rates of `iterations`, then zeros up to `most`; float32 [most]."""
    settings = TrainSettings(iterations, learning_rate, warmup=min(MOST_WARMUP, max(1, iterations // 10)))
    rates = [learning_rate * learning_rate_factor(each, settings) for each in range(iterations)]
    return torch.tensor(rates + [0.0] * (most - iterations), device=device)


class Trainer:
    """One arm in training: `step` does an iteration, or queues it on the arm's stream of a card.

    The network is trained in place, on the device that it is on.
    """

    def __init__(self, model: Detector, images: Images, draws: Draws, learning_rate: float) -> None:
        self.model, self.images, self.draws = model, images, draws
        self.device = next(model.parameters()).device
        self.on_card = self.device.type == "cuda"
        self.learning_rate = learning_rate
        self.most = len(draws.chosen)
        self.mean = torch.tensor(model.config.mean, device=self.device).reshape(1, 3, 1, 1)
        self.settings = TrainSettings(self.most, learning_rate)
        self.done = torch.zeros(1, dtype=torch.int64, device=self.device)
        self.rates = torch.zeros(self.most, device=self.device)
        self.loss = torch.zeros((), device=self.device)
        self.follows = follows_densities(model)
        self.model.train().to(memory_format=torch.channels_last)
        self.optimizer = self._optimizer()
        self.stream = torch.cuda.Stream(self.device) if self.on_card else None
        self.graph: torch.cuda.CUDAGraph | None = None
        self.iterations, self.seconds = 0, 0.0

    def _optimizer(self) -> torch.optim.AdamW:
        made = make_optimizer(self.model, self.settings)
        if not self.on_card:
            return made
        groups = [{"params": g["params"], "weight_decay": g["weight_decay"]} for g in made.param_groups]
        rate = torch.zeros((), device=self.device)
        return torch.optim.AdamW(groups, lr=rate, fused=True, capturable=True)

    def capture(self) -> None:
        """Captures the step as a graph and leaves the network as it was. Nothing without a card."""
        if not self.on_card:
            return
        before = self.snapshot()
        with torch.cuda.stream(self.stream):
            for _ in range(WARM_STEPS):
                self._step()
            self.optimizer.zero_grad(set_to_none=True)
        torch.cuda.synchronize(self.device)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=self.stream):
            self._step()
        torch.cuda.synchronize(self.device)
        self.restore(before)

    def snapshot(self) -> list[Tensor]:
        """The network as it is."""
        values = [value.detach().clone() for value in self._state()]
        self.wait()
        return values

    def restore(self, values: list[Tensor]) -> None:
        """The network as it was at a `snapshot`."""
        self.wait()
        with torch.no_grad():
            for own, value in zip(self._state(), values, strict=True):
                own.copy_(value)
        self.wait()

    def wait(self) -> None:
        """Until the card has done what was queued; nothing without one."""
        if self.on_card:
            torch.cuda.synchronize(self.device)

    def begin(self, iterations: int) -> None:
        """From iteration 0, with the schedule of `iterations` and fresh moments."""
        self.iterations, self.seconds = 0, 0.0
        with torch.no_grad():
            self.done.zero_()
            self.rates.copy_(schedule(iterations, self.learning_rate, self.most, self.device))
            for state in self.optimizer.state.values():
                for value in state.values():
                    if isinstance(value, Tensor):
                        value.zero_()
        self.wait()

    def step(self) -> None:
        """One iteration."""
        with torch.cuda.stream(self.stream) if self.on_card else contextlib.nullcontext():
            if self.graph is not None:
                self.graph.replay()
            else:
                self._step()

    def estimate(self, solve: Solver) -> None:
        """Estimates anew the densities that quantizers follow, on the coming batch."""
        if self.follows:
            self.wait()
            pixels, _, _ = batch_of(self.images, self.draws, self.done)
            estimate(self.model, pixels - self.mean, solve)
            self.wait()

    def last_loss(self) -> float:
        """The loss of the last step, when it is done."""
        self.wait()
        return float(self.loss)

    def _step(self) -> None:
        pixels, boxes, labels = batch_of(self.images, self.draws, self.done)
        inputs = (pixels - self.mean).contiguous(memory_format=torch.channels_last)
        losses = detection_loss(self.model.config, self.model(inputs), boxes, labels)
        total = torch.stack(list(losses.values())).sum()
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip_norm)
        self._set_rate()
        self.optimizer.step()
        self.loss.copy_(total.detach())
        self.done += 1

    def _set_rate(self) -> None:
        rate = self.rates.index_select(0, self.done)[0]
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].copy_(rate)
            else:
                group["lr"] = float(rate)

    def _state(self) -> list[Tensor]:
        return [*self.model.parameters(), *self.model.buffers(), self.done]
