"""Densities that are known, as histograms that one would see of them."""

import numpy as np

GRID = np.linspace(-16, 16, 100_001)
VALUES = 1_000_000


def gaussian(mean, deviation):
    return np.exp(-(((GRID - mean) / deviation) ** 2) / 2) / deviation


DENSITIES = {
    "Gaussian": gaussian(0, 1),
    "Laplace": np.exp(-np.abs(GRID)),
    "half-Gaussian with zeros": np.where(GRID >= 0, gaussian(0, 1), 0),
    "narrow and wide": 0.8 * gaussian(0, 0.3) + 0.2 * gaussian(0, 2),
    "two bumps": gaussian(-1, 0.3) + 0.5 * gaussian(1.5, 0.5),
}


def histogram(name):
    """2,048 bins of as many values as one would see, and the density on the grid within their range."""
    weights = DENSITIES[name] / DENSITIES[name].sum()
    reached = np.cumsum(weights)
    low, high = (GRID[np.searchsorted(reached, share)] for share in (1 / VALUES, 1 - 1 / VALUES))
    low = max(low, 0) if name.startswith("half") else low
    counts, edges = np.histogram(GRID, 2048, (low, high), weights=weights * VALUES)
    if name.startswith("half"):
        counts[0] += VALUES
    return counts, edges, np.where((low <= GRID) & (high >= GRID), weights, 0)
