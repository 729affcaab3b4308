"""The runner counts threads as the Python library does, and tells those that it uses."""

from __future__ import annotations

import json
import os
import subprocess
from importlib import resources
from pathlib import Path

import pytest
from bundle_models import tiny_program
from cgroup_trees import OPENMP, TREES

from aqd_deploy.bundle import create_bundle
from aqd_deploy.compiler.toolchain import native_toolchain
from aqd_deploy.targets.threads import parse_openmp, read_quota, thread_limits

# Prints the limits under each root, or what each text of OMP_NUM_THREADS means.
MAIN = """
#include <cstdio>
#include <cstring>
#include "threads.h"

int main(int count, char** words) {
  const bool openmp = !std::strcmp(words[1], "openmp");
  for (int i = 2; i < count; ++i) {
    if (openmp) {
      std::printf("%d\\n", aqd::parse_openmp(words[i]));
    } else {
      const aqd::ThreadLimits limits = aqd::thread_limits(words[i]);
      std::printf("%s %d\\n", limits.json().c_str(), limits.available());
    }
  }
}
"""


@pytest.fixture(scope="module")
def probe(tmp_path_factory) -> Path:
    """A program around the runner's count of threads."""
    folder = tmp_path_factory.mktemp("probe")
    native = Path(str(resources.files("aqd_deploy.bundle") / "native"))
    (folder / "main.cc").write_text(MAIN)
    flags = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-I", str(native)]
    native_toolchain().compile([folder / "main.cc", native / "threads.cc"], folder / "probe", flags)
    return folder / "probe"


def lines_of(probe, *words):
    return subprocess.run([probe, *words], capture_output=True, text=True, check=True).stdout.splitlines()


def test_quotas_are_those_of_the_library(probe, tmp_path):
    roots = [tree.write(tmp_path / str(index)) for index, tree in enumerate(TREES.values())]
    found = [line.rsplit(" ", 1) for line in lines_of(probe, "quota", *roots)]
    for name, root, (limits, available) in zip(TREES, roots, found, strict=True):
        quota = json.loads(limits)["quota"]
        assert quota == TREES[name].quota == read_quota(root), name
        affinity = len(os.sched_getaffinity(0))
        assert int(available) == (affinity if quota is None else min(affinity, max(1, -int(-quota // 1)))), (
            name
        )


def test_this_machines_limits_are_those_of_the_library(probe):
    (line,) = lines_of(probe, "quota", "")
    here = thread_limits()
    assert json.loads(line.rsplit(" ", 1)[0]) == {
        "affinity": here.affinity, "quota": here.quota, "openmp": here.openmp,
    }  # fmt: skip
    assert int(line.rsplit(" ", 1)[1]) == here.available


def test_omp_num_threads_means_what_it_means_to_the_library(probe):
    found = [int(line) for line in lines_of(probe, "openmp", *OPENMP)]
    # Beyond a million nobody counts.
    assert found == [min(parse_openmp(text) or 0, 10**6) for text in OPENMP]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory) -> dict[int, Path]:
    """Bundles of programs for one thread and for two."""
    folder = tmp_path_factory.mktemp("bundles")
    found = {}
    for threads in (1, 2):
        program = tiny_program("x86-64-v2", folder / f"{threads}.so", threads=threads)
        found[threads] = create_bundle(program, folder / str(threads)).path
    return found


@pytest.mark.parametrize("compiled", [1, 2])
@pytest.mark.parametrize("asked", [None, 1, 2, 7])
@pytest.mark.parametrize("openmp", [None, "1", "9", "many"])
@pytest.mark.parametrize("cpus", [1, 2])
def test_threads_told_are_the_least_of_all(bundles, compiled, asked, openmp, cpus):
    available = sorted(os.sched_getaffinity(0))[:cpus]
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    if openmp is not None:
        environment["OMP_NUM_THREADS"] = openmp
    options = [] if asked is None else ["--threads", str(asked)]
    done = subprocess.run(
        [bundles[compiled] / "aqd-run", *options],
        env=environment,
        stdout=subprocess.PIPE,
        check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, available),
    )
    document = json.loads(done.stdout)
    wanted = asked or (1 if openmp == "1" else compiled)
    assert document["threads"] == min(wanted, compiled, len(available))
    assert document["thread_limits"]["affinity"] == len(available)
