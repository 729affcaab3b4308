"""Other processes' CPU time, from counters that are known."""

from __future__ import annotations

import os

import pytest

from aqd_deploy.bench import busyness
from aqd_deploy.bench.busyness import Busyness, Watch


@pytest.fixture
def counters(tmp_path, monkeypatch):
    """A /proc/stat, and a clock and CPU times of this process that stand still until they are set."""
    state = {"wall": 100.0, "own": 5.0}
    stat = tmp_path / "stat"

    def ticks(user, idle, steal=0):
        """In seconds."""
        tick = os.sysconf("SC_CLK_TCK")
        fields = [user * tick, 0, 0, idle * tick, 7 * tick, 0, 0, steal * tick, 3 * tick, 0]
        stat.write_text("cpu  " + " ".join(map(str, fields)) + "\ncpu0 1 2 3 4\n")

    monkeypatch.setattr(busyness.time, "perf_counter", lambda: state["wall"])
    monkeypatch.setattr(busyness.os, "times", lambda: (state["own"], 0.0, 0.0, 0.0, state["wall"]))
    monkeypatch.setattr(busyness.os, "cpu_count", lambda: 2)
    ticks(10, 1000)
    return stat, state, ticks


def test_what_others_got(counters):
    """10 s; all CPUs worked 18 s and a hypervisor took 1; 14 were this process's."""
    stat, state, ticks = counters
    watch = Watch(stat)
    state["wall"], state["own"] = 110.0, 19.0
    ticks(28, 1001, steal=1)
    found = watch.so_far()
    assert found.others_cpus == pytest.approx(0.5)
    assert found.told() == {"busy": True, "others_cpus": 0.5, "cpus": 2}


def test_a_quiet_machine(counters):
    stat, state, ticks = counters
    watch = Watch(stat)
    state["wall"], state["own"] = 110.0, 15.0
    ticks(20, 1009)
    assert watch.so_far().told() == {"busy": False, "others_cpus": 0.0, "cpus": 2}


@pytest.mark.parametrize("content", [None, "", "cpu 1 2 3\n", "cpu a b c d e f g h\n"])
def test_a_system_that_does_not_tell(content, tmp_path):
    if content is not None:
        (tmp_path / "stat").write_text(content)
    told = Watch(tmp_path / "stat").so_far().told()
    assert told["busy"] is told["others_cpus"] is None


def test_the_limit_is_a_share_of_all_cpus():
    assert not Busyness(1.0, 64, 3.0).busy
    assert Busyness(1.0, 64, 3.3).busy


def test_this_machine():
    """Whatever it tells: it does not raise, and counts no less than nothing."""
    found = Watch().so_far()
    assert found.others_cpus is None or found.others_cpus >= 0
