"""The table of a staircase for all channels: cells of equal width, each with few thresholds in it.

A value's cell says how many thresholds lie before it; comparing the value with those in the cell gives the
number that it has reached. Values beyond the first and the last threshold are moved to these first.
"""

from __future__ import annotations

import numpy as np

from aqd_deploy.kernels.contract.spec import Steps

MOST_CELLS = 512
LOW, HIGH, SHIFT, FIRST = range(4)
"""Words of the header: the clip, and the cell (v >> shift) − first of what it leaves."""

_BEYOND = np.iinfo(np.int32).max


def cell_table(thresholds: np.ndarray, codes: np.ndarray) -> tuple[Steps, list[np.ndarray]]:
    """The stage for ascending int32 `thresholds` [K ≥ 1] and `codes` [K + 1], and its parameters. Cells are
    as narrow as `MOST_CELLS` allows.
    """
    wide = thresholds.astype(np.int64)
    low, high = max(int(wide[0]) - 1, -(1 << 31)), int(wide[-1])
    shift = 0
    while (high >> shift) - (low >> shift) >= MOST_CELLS:
        shift += 1
    first = low >> shift
    count = (high >> shift) - first + 1
    starts = np.searchsorted(wide, (first + np.arange(count + 1)) << shift)
    most = int(np.diff(starts).max())
    header = np.array([low, high, shift, first])
    padding = np.full(most, _BEYOND)
    arrays = [header, starts[:-1], np.append(wide, padding), np.append(codes, np.repeat(codes[-1:], most))]
    return Steps(len(wide), count, most), [np.ascontiguousarray(a, np.int32) for a in arrays]
