"""Batches that never leave the card: all images lie there, and every draw of a run is made before it begins.

The augmentation is that of `examples/digits/train.py` (colours, shifts), computed in tensors. Arms of one
seed see the same batches, whatever they are compared in.
"""

from __future__ import annotations

import numpy as np
import torch
from data import MOST_BOXES
from torch import Tensor

MOST_SHIFT = 8
AT_ONCE = 2000
GAIN, OFFSET = (0.75, 1.25), (-25.0, 25.0)


class Images:
    """Composed images on a device: uint8 [n, 3, side, side] BGR, boxes float32 [n, 6, 4], labels int64
    [n, 6].
    """

    def __init__(self, count: int, size: int, device: torch.device) -> None:
        """Places for images that are still to be composed."""
        self.images = torch.zeros((count, 3, size, size), dtype=torch.uint8, device=device)
        self.boxes = torch.zeros((count, MOST_BOXES, 4), device=device)
        self.labels = torch.full((count, MOST_BOXES), -1, dtype=torch.int64, device=device)

    def fill(self, arrays: dict[str, np.ndarray]) -> None:
        """Takes over composed arrays (see `data.compose_arrays`)."""
        for own, name in ((self.images, "images"), (self.boxes, "boxes"), (self.labels, "labels")):
            for first in range(0, len(own), AT_ONCE):
                part = torch.from_numpy(np.array(arrays[name][first : first + AT_ONCE]))
                own[first : first + AT_ONCE].copy_(part)


class Draws:
    """What is drawn for `most` iterations, on a device: which images, and how each is changed."""

    def __init__(self, count: int, batch: int, most: int, seed: int, device: torch.device) -> None:
        rng = np.random.default_rng([seed, 7])
        per_epoch = max(1, count // batch)
        order = [rng.permutation(count)[: per_epoch * batch] for _ in range(-(-most // per_epoch))]
        chosen = np.resize(np.concatenate(order), (most, batch))
        shape = (most, batch)
        mixed = rng.permuted(np.tile(np.arange(3), (most, batch, 1)), axis=2)
        kept = (rng.random(shape) >= 0.5)[..., None]
        self.chosen = torch.from_numpy(chosen).to(device)
        self.channels = torch.from_numpy(np.where(kept, np.arange(3), mixed)).to(device)
        self.negative = torch.from_numpy(rng.random(shape) < 0.25).to(device)
        self.gain = torch.from_numpy(rng.uniform(*GAIN, shape).astype(np.float32)).to(device)
        self.offset = torch.from_numpy(rng.uniform(*OFFSET, shape).astype(np.float32)).to(device)
        self.shift = torch.from_numpy(rng.integers(-MOST_SHIFT, MOST_SHIFT + 1, (*shape, 2))).to(device)


def batch_of(images: Images, draws: Draws, iteration: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The batch of an iteration (int64 [1], on the device): pixels float32 [N, 3, side, side] in 0..255,
    boxes and labels; nothing waits for the host.
    """

    def drawn(table: Tensor) -> Tensor:
        return table.index_select(0, iteration)[0]

    chosen = drawn(draws.chosen)
    labels = images.labels[chosen]
    pixels, boxes = _shifted(images.images[chosen], images.boxes[chosen], labels, drawn(draws.shift))
    colours = (drawn(table) for table in (draws.channels, draws.negative, draws.gain, draws.offset))
    return _coloured(pixels, *colours), boxes, labels


def _coloured(pixels: Tensor, channels: Tensor, negative: Tensor, gain: Tensor, offset: Tensor) -> Tensor:
    """A permutation of the channels, now and then a negative, contrast and brightness; whole numbers."""
    mixed = pixels.gather(1, channels[:, :, None, None].expand_as(pixels)).to(torch.float32)
    mixed = torch.where(negative[:, None, None, None], 255 - mixed, mixed)
    changed = (mixed - 128) * gain[:, None, None, None] + (128 + offset[:, None, None, None])
    return changed.clamp(0, 255).floor()


def _shifted(images: Tensor, boxes: Tensor, labels: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Images and boxes moved by `shift` (x, y; int64 [N, 2]) where no digit leaves its image; the uncovered
    rim wraps around.
    """
    side = images.shape[-1]
    used = (labels >= 0)[..., None]
    moved = boxes + shift.repeat(1, 2)[:, None].to(boxes.dtype)
    inside = (torch.where(used, moved, 0.0) >= 0) & (torch.where(used, moved, 0.0) <= side)
    allowed = inside.flatten(1).all(dim=1)
    shift = torch.where(allowed[:, None], shift, torch.zeros_like(shift))
    places = torch.arange(side, device=images.device)
    columns = (places[None] - shift[:, :1]) % side
    rows = (places[None] - shift[:, 1:]) % side
    images = images.gather(3, columns[:, None, None].expand_as(images))
    images = images.gather(2, rows[:, None, :, None].expand_as(images))
    return images, torch.where(used & allowed[:, None, None], moved, boxes)
