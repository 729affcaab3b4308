"""Batches of the digits for training, shuffled each epoch, with cheap augmentation, on the CPU or a card."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class DigitBatches:
    """Batches of the training images: colors change, and everything moves a little.

    Digits are not mirrored: a mirrored digit is none. A batch depends on seed and iteration alone. With a
    `device` all images lie there, and the images of a batch are made there; they are the same.
    """

    def __init__(
        self, arrays: dict[str, np.ndarray], batch: int, seed: int, device: str | None = None
    ) -> None:
        self.arrays, self.batch, self.seed = arrays, batch, seed
        self.count = len(arrays["labels"])
        self.images = None if device is None else torch.from_numpy(np.array(arrays["images"])).to(device)

    def __call__(self, iteration: int, rank: int, world: int) -> tuple[Tensor, Tensor, Tensor]:
        rng = np.random.default_rng([self.seed, iteration])
        chosen = self._indices(iteration)[rank::world]
        boxes, labels = (self.arrays[name][chosen].copy() for name in ("boxes", "labels"))
        size = self.arrays["images"].shape[-1]
        drawn = [(*_colors(rng), _shift(boxes[k], labels[k], size, rng)) for k in range(len(chosen))]
        images = self._on_cpu(chosen, drawn) if self.images is None else _on_card(self.images, chosen, drawn)
        return images, torch.from_numpy(boxes), torch.from_numpy(labels)

    def _indices(self, iteration: int) -> np.ndarray:
        per_epoch = self.count // self.batch
        epoch, position = divmod(iteration, per_epoch)
        order = np.random.default_rng([self.seed, 1_000_000 + epoch]).permutation(self.count)
        return order[position * self.batch : (position + 1) * self.batch]

    def _on_cpu(self, chosen: np.ndarray, drawn: list) -> Tensor:
        made = [
            np.roll(table[self.arrays["images"][i][order]], (dy, dx), axis=(1, 2))
            for i, (order, table, (dx, dy)) in zip(chosen, drawn, strict=True)
        ]
        return torch.from_numpy(np.stack(made))


def _on_card(images: Tensor, chosen: np.ndarray, drawn: list) -> Tensor:
    """The batch of `images` (uint8 [n, 3, S, S]), made where they are, by few operations for all of it."""
    device, size = images.device, images.shape[-1]
    orders, tables, shifts = (
        torch.from_numpy(np.array(each)).to(device) for each in zip(*drawn, strict=True)
    )
    place = torch.arange(size, device=device)
    columns, rows = ((place[None] - shifts[:, axis, None]) % size for axis in (0, 1))
    first = torch.from_numpy(chosen).to(device)[:, None, None, None]
    pixels = images[first, orders[:, :, None, None], rows[:, None, :, None], columns[:, None, None, :]]
    which = torch.arange(len(chosen), device=device)[:, None, None, None]
    return tables[which, pixels.long()]


def _colors(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """An order of the channels, and what each level becomes, uint8 [256]: brightness, contrast, now and then
    a negative.
    """
    order = rng.permutation(3) if rng.random() < 0.5 else np.arange(3)
    negative = rng.random() < 0.25
    gain, offset = rng.uniform(0.75, 1.25), rng.uniform(-25, 25)
    table = np.clip((np.arange(256) - 128) * gain + 128 + offset, 0, 255).astype(np.uint8)
    return order, table[::-1].copy() if negative else table


def _shift(boxes: np.ndarray, labels: np.ndarray, size: int, rng: np.random.Generator) -> tuple[int, int]:
    """How far an image moves, by up to 8 pixels right and down, as far as no digit leaves it: else not at
    all. The boxes move in place; the uncovered rim wraps around.
    """
    dx, dy = (int(v) for v in rng.integers(-8, 9, size=2))
    used = labels >= 0
    moved = boxes[used] + np.array([dx, dy, dx, dy], np.float32)
    if len(moved) and (moved.min() < 0 or moved.max() > size):
        return 0, 0
    boxes[used] = moved
    return dx, dy
