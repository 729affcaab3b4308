"""Interleaved timing: on a machine with other work only ratios from one run count.

Each round gives every contender its turn, in an order that rotates. A turn is a pause (idle thread pools of
the one before stop spinning), one unmeasured run, then the measured ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

PAUSE_SECONDS = 0.01
# A difference below this share is not told apart from noise.
NOISE_LIMIT = 0.1


def interleave(
    contenders: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 10,
    runs: int = 3,
    warmup: int = 2,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, np.ndarray]:
    """Seconds of every measured run, float64 [rounds, runs], by contender's name.

    `contenders` are functions of no arguments that run once; `warmup` is the number of unmeasured runs
    before all. Raises ValueError where `rounds` or `runs` is below 1.
    """
    if rounds < 1 or runs < 1:
        raise ValueError(f"rounds and runs must be at least 1, got {rounds} and {runs}")
    names = list(contenders)
    seconds = {name: np.empty((rounds, runs)) for name in names}
    for name in names:
        progress(f"warming up {name}")
        for _ in range(warmup):
            contenders[name]()
    for index in range(rounds):
        progress(f"round {index + 1} of {rounds}")
        shift = index % len(names)
        for name in names[shift:] + names[:shift]:
            seconds[name][index] = _turn(contenders[name], runs)
    return seconds


def timed(contender: Callable[[], object]) -> float:
    """Seconds of one run."""
    started = time.perf_counter()
    contender()
    return time.perf_counter() - started


def _turn(contender: Callable[[], object], runs: int) -> list[float]:
    time.sleep(PAUSE_SECONDS)
    contender()
    return [timed(contender) for _ in range(runs)]


def statistics(seconds: np.ndarray, first: float | None = None) -> dict[str, Any]:
    """Milliseconds of the measured runs [rounds, runs]: minimum, median, 90th and 99th percentile, and each
    round's best; how many images a second the median makes at batch 1; `spread` of the rounds. `first_ms` is
    the very first run, in `first` seconds, None where it was not timed.
    """
    milliseconds = seconds * 1e3
    p90, p99 = np.percentile(milliseconds, [90, 99])
    return {
        "first_ms": None if first is None else round(first * 1e3, 4),
        "min_ms": round(float(milliseconds.min()), 4),
        "median_ms": round(float(np.median(milliseconds)), 4),
        "p90_ms": round(float(p90), 4),
        "p99_ms": round(float(p99), 4),
        "images_per_s": round(float(1 / np.median(seconds)), 3),
        "spread": spread(seconds),
        "rounds_ms": [round(float(best), 4) for best in milliseconds.min(axis=1)],
    }


def ratios(ours: np.ndarray, peer: np.ndarray) -> dict[str, Any]:
    """How many times as long as the peer we take: below 1 we are faster.

    Of medians and of minima over all runs; `rounds_quartiles` are the quartiles of the ratio of medians
    within each round, which tell how much the machine's noise moves it. `noisy`: the first two differ by more
    than NOISE_LIMIT, or the quartiles lie further apart than that share of their middle.
    """
    by_round = np.median(ours, axis=1) / np.median(peer, axis=1)
    of_medians, of_minima = np.median(ours) / np.median(peer), ours.min() / peer.min()
    quartiles = np.percentile(by_round, [25, 50, 75])
    apart = max(of_medians, of_minima) / min(of_medians, of_minima) - 1
    width = (quartiles[2] - quartiles[0]) / quartiles[1]
    return {
        "of_medians": round(float(of_medians), 4),
        "of_minima": round(float(of_minima), 4),
        "rounds_quartiles": [round(float(q), 4) for q in quartiles],
        "noisy": bool(max(apart, width) > NOISE_LIMIT),
    }


def spread(seconds: np.ndarray) -> float:
    """How far rounds differ: the interquartile range of their medians as a share of the middle one."""
    low, middle, high = np.percentile(np.median(seconds, axis=1), [25, 50, 75])
    return round(float((high - low) / middle), 4)
