"""Interleaved timing: every contender in every round, in rotating order, with honest statistics."""

from __future__ import annotations

import numpy as np
import pytest

from aqd_deploy.bench import rounds
from aqd_deploy.bench.rounds import interleave, ratios, spread, statistics


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(rounds, "PAUSE_SECONDS", 0.0)


def test_every_contender_in_every_round_in_rotating_order():
    calls: list[str] = []
    contenders = {name: (lambda name=name: calls.append(name)) for name in "abc"}
    seconds = interleave(contenders, rounds=3, runs=2, warmup=1)
    assert {name: values.shape for name, values in seconds.items()} == dict.fromkeys("abc", (3, 2))
    # One warm-up each; then per turn one unmeasured and two measured runs.
    assert "".join(calls) == "abc" + "aaabbbccc" + "bbbcccaaa" + "cccaaabbb"
    assert all((values >= 0).all() for values in seconds.values())


def test_statistics():
    entry = statistics(np.array([[0.003, 0.001], [0.002, 0.010]]))
    assert (entry["min_ms"], entry["median_ms"], entry["rounds_ms"]) == (1.0, 2.5, [1.0, 2.0])
    assert entry["p90_ms"] == pytest.approx(7.9)
    assert entry["p99_ms"] == pytest.approx(9.79)
    # At the median, one image a run.
    assert entry["images_per_s"] == 400.0
    # Medians of the rounds are 2 and 6: quartiles 3 and 5 around 4.
    assert entry["spread"] == 0.5
    assert entry["first_ms"] is None
    assert statistics(np.array([[0.003]]), first=0.0205)["first_ms"] == 20.5


def test_a_slow_moment_of_the_machine_does_not_move_the_ratio():
    ours, peer = np.full((5, 3), 0.002), np.full((5, 3), 0.004)
    ours[2] *= 50
    peer[2] *= 50
    entry = ratios(ours, peer)
    assert entry["of_medians"] == entry["of_minima"] == 0.5
    assert entry["rounds_quartiles"] == [0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    ("change", "noisy"),
    [
        (lambda ours: ours, False),
        # One fast run moves the minimum only; half of the rounds slower move the quartiles.
        (lambda ours: np.where(np.arange(15).reshape(5, 3) == 7, ours * 0.85, ours), True),
        (lambda ours: np.where(np.arange(5)[:, None] < 2, ours * 1.3, ours), True),
        (lambda ours: np.where(np.arange(5)[:, None] < 2, ours * 1.05, ours), False),
    ],
)
def test_what_is_called_noisy(change, noisy):
    ours, peer = np.full((5, 3), 0.002), np.full((5, 3), 0.004)
    assert ratios(change(ours), peer)["noisy"] == noisy


def test_spread_is_that_of_the_rounds():
    seconds = np.repeat([[1.0], [1.1], [1.2], [1.3], [1.4]], 3, axis=1)
    seconds[:, 0] = 9
    assert spread(seconds) == pytest.approx(0.2 / 1.2, abs=1e-4)


@pytest.mark.parametrize("wrong", [{"rounds": 0}, {"runs": 0}])
def test_nothing_to_measure_is_refused(wrong):
    with pytest.raises(ValueError, match="at least 1"):
        interleave({"a": lambda: None}, **wrong)
