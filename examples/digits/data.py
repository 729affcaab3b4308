"""The composed digits as arrays: composed once, kept in a folder, memory-mapped afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path

import compose
import numpy as np

MOST_BOXES = compose.MOST_DIGITS
TOLD_EVERY = 2000
SHARED_AT_ONCE = 100


def compose_arrays(
    split: str,
    count: int,
    size: int,
    seed: int,
    folder: Path,
    say: Callable[[str], None] = lambda _: None,
    pool: Executor | None = None,
) -> dict[str, np.ndarray]:
    """Images 0..count-1 of a split: `images` uint8 [n, 3, size, size] BGR, `boxes` float32 [n, 6, 4] (x1, y1,
    x2, y2), `labels` int64 [n, 6] with -1 where an image has fewer digits.

    Reads `folder` if it holds that very set, writes it otherwise (a killed run leaves no half set behind: the
    description is written last) and tells `say` how far it is. `pool` shares the work among processes.
    """
    wanted = {"split": split, "count": count, "size": size, "seed": seed}
    description = folder / "description.json"
    if not (description.exists() and json.loads(description.read_text()) == wanted):
        folder.mkdir(parents=True, exist_ok=True)
        description.unlink(missing_ok=True)
        _compose(wanted, folder, say, pool)
        description.write_text(json.dumps(wanted))
    return {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("images", "boxes", "labels")}


def _compose(wanted: dict, folder: Path, say: Callable[[str], None], pool: Executor | None) -> None:
    count, size = wanted["count"], wanted["size"]
    shape = (count, 3, size, size)
    np.lib.format.open_memmap(folder / "images.npy", mode="w+", dtype=np.uint8, shape=shape).flush()
    boxes = np.zeros((count, MOST_BOXES, 4), np.float32)
    labels = np.full((count, MOST_BOXES), -1, np.int64)
    say(f"composing {count} {wanted['split']} images into {folder}, which later runs read")
    step = TOLD_EVERY if pool is None else SHARED_AT_ONCE
    parts = [(wanted, folder, first, min(first + step, count)) for first in range(0, count, step)]
    composed = map(_part, parts) if pool is None else pool.map(_part, parts)
    for (_, _, first, end), (found, classes) in zip(parts, composed, strict=True):
        boxes[first:end], labels[first:end] = found, classes
        if end < count and end % TOLD_EVERY == 0:
            say(f"composed {end} of {count} images")
    np.save(folder / "boxes.npy", boxes)
    np.save(folder / "labels.npy", labels)


def _part(part: tuple[dict, Path, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Composes the images first..end-1 into their place in the file; their boxes and labels."""
    wanted, folder, first, end = part
    composer = compose.Composer(wanted["split"], size=wanted["size"], seed=wanted["seed"])
    images = np.load(folder / "images.npy", mmap_mode="r+")
    boxes = np.zeros((end - first, MOST_BOXES, 4), np.float32)
    labels = np.full((end - first, MOST_BOXES), -1, np.int64)
    for place, index in enumerate(range(first, end)):
        pixels, found, classes = composer.image(index)
        images[index] = pixels[:, :, ::-1].transpose(2, 0, 1)
        boxes[place, : len(found)] = found
        labels[place, : len(classes)] = classes
    images.flush()
    return boxes, labels
