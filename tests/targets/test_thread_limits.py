"""How many threads a process has use for: its CPUs, quotas of control groups, OMP_NUM_THREADS."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from cgroup_trees import OPENMP, TREES

from aqd_deploy.compiler.build import default_threads
from aqd_deploy.environment import environment
from aqd_deploy.targets import get, threads
from aqd_deploy.targets.cpu import available_threads
from aqd_deploy.targets.threads import ThreadLimits, parse_openmp, read_quota, thread_limits


@pytest.mark.parametrize("name", TREES)
def test_the_quota_of_control_groups(name, tmp_path):
    tree = TREES[name]
    assert read_quota(tree.write(tmp_path)) == tree.quota


def test_no_files_at_all(tmp_path):
    assert read_quota(tmp_path / "nowhere") is None


@pytest.mark.parametrize("text", OPENMP)
def test_numbers_in_omp_num_threads(text):
    assert parse_openmp(text) == OPENMP[text]


@pytest.mark.parametrize(
    ("limits", "available", "usual"),
    [
        (ThreadLimits(4), 4, 4),
        (ThreadLimits(4, 0.5), 1, 1),
        (ThreadLimits(4, 1.0), 1, 1),
        (ThreadLimits(4, 1.01), 2, 2),
        (ThreadLimits(4, 2.0), 2, 2),
        (ThreadLimits(2, 64.0), 2, 2),
        (ThreadLimits(4, 0.001), 1, 1),
        (ThreadLimits(4, None, 1), 4, 1),
        (ThreadLimits(4, 2.5, 8), 3, 3),
    ],
)
def test_the_least_counts(limits, available, usual):
    assert (limits.available, limits.usual) == (available, usual)


def test_what_limits_is_told_in_words():
    assert str(ThreadLimits(1)) == "1 CPU to run on"
    assert str(ThreadLimits(2, 0.5, 1)) == "2 CPUs to run on, a quota of 0.5 CPUs, OMP_NUM_THREADS=1"


def test_a_quota_is_seen_wherever_threads_are_counted(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "_ROOT", TREES["half a CPU in a container"].write(tmp_path))
    assert available_threads() == default_threads(get("host")) == environment()["threads"] == 1
    assert "a quota of 0.5 CPUs" in environment()["thread_limits"]


def test_omp_num_threads_is_the_default_and_no_limit(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert default_threads(get("host")) == environment()["threads"] == 1
    assert available_threads() == len(os.sched_getaffinity(0))
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert default_threads(get("host")) == available_threads()
    # Not for a device whose profile tells its cores.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert default_threads(get("raspberrypi-5")) == 4


def test_the_cpus_of_taskset():
    cpu = min(os.sched_getaffinity(0))
    script = (
        f"import os, json; os.sched_setaffinity(0, {{{cpu}}})\n"
        "from aqd_deploy.environment import environment\nprint(json.dumps(environment()))"
    )
    plain = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=plain, capture_output=True, text=True, check=True
    )
    document = json.loads(done.stdout)
    assert document["threads"] == 1 and document["thread_limits"].startswith("1 CPU to run on")
    assert thread_limits().affinity == len(os.sched_getaffinity(0))
