"""The table of a staircase for all channels: cells of equal width, each with its few thresholds and codes.

A value's cell has the thresholds that it may have reached without having reached the next cell's. Values
beyond the first and the last threshold are moved to these first.
"""

from __future__ import annotations

import numpy as np

from aqd_deploy.kernels.contract.spec import Steps

# Thresholds and two codes of so many cells stay in a cache of the first level.
MOST_CELLS = 2048
LOW, HIGH, SHIFT, FIRST = range(4)
"""Words of the header: the clip, and the cell (v >> shift) − first of what it leaves."""

_LEAST, _LARGEST = -(1 << 31), (1 << 31) - 1


def cell_table(thresholds: np.ndarray, codes: np.ndarray) -> tuple[Steps, list[np.ndarray]]:
    """The stage for ascending int32 `thresholds` [K ≥ 1] and `codes` [K + 1], and its parameters: as many
    cells as leave the fewest thresholds in one.
    """
    table, last = np.unique(thresholds[::-1].astype(np.int64), return_index=True)
    codes = np.concatenate([codes[:1], codes[len(thresholds) - last]])
    low, high = max(int(table[0]) - 1, _LEAST), int(table[-1])
    bounds = {shift: _starts(table, low, high, shift) for shift in range(32)}
    fitting = [shift for shift, starts in bounds.items() if len(starts) - 1 <= MOST_CELLS]
    shift = min(fitting, key=lambda shift: (np.diff(bounds[shift]).max(), -shift))
    starts = bounds[shift]
    most = max(int(np.diff(starts).max()), 1)
    place = starts[:-1, None] + np.arange(most)
    mine = place < starts[1:, None]
    reached = np.where(mine, table[np.minimum(place, len(table) - 1)], _LARGEST)
    steps = np.minimum(starts[:-1, None] + np.arange(most + 1), starts[1:, None])
    header = np.array([low, high, shift, low >> shift])
    arrays = [header, reached.reshape(-1), codes[steps].reshape(-1)]
    return Steps(len(starts) - 1, most), [np.ascontiguousarray(array, np.int32) for array in arrays]


def _starts(table: np.ndarray, low: int, high: int, shift: int) -> np.ndarray:
    """The first threshold of each cell, and the number of thresholds; of too many cells only some."""
    count = min((high >> shift) - (low >> shift), MOST_CELLS) + 1
    return np.searchsorted(table, ((low >> shift) + np.arange(count + 1)) << shift)
