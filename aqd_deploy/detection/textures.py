"""Generated images for calibration and timing, where there are no photographs. numpy only."""

from __future__ import annotations

import numpy as np


def textures(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """uint8 [count, 3, height, width]: noise on grids from coarse to fine, so that neighbours are alike."""
    generator = np.random.default_rng(seed)
    image = np.zeros((count, 3, height, width), np.float32)
    for cell in (32, 8, 2, 1):
        shape = (count, 3, -(-height // cell), -(-width // cell))
        grid = generator.normal(0, 18, shape).astype(np.float32)
        image += grid.repeat(cell, axis=2).repeat(cell, axis=3)[:, :, :height, :width]
    return np.clip(image + 116, 0, 255).astype(np.uint8)
