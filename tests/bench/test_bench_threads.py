"""`bench` measures with the threads that the program uses, tells that number, and gives it to the peers."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from cgroup_trees import TREES

from aqd_deploy.bench import device, measure
from aqd_deploy.bench.peers.contract import Opened, Peer, Variant
from aqd_deploy.bench.view import text_view
from aqd_deploy.compiler import compile_model
from aqd_deploy.runtime import Program, backend, lanes
from aqd_deploy.targets import threads

CPUS = len(os.sched_getaffinity(0))


@pytest.fixture(scope="module")
def programs(tmp_path_factory) -> dict[int, Path]:
    """A small program compiled for one thread, for two and for four."""
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "compiler"))
    from small_models import tiny_network

    folder = tmp_path_factory.mktemp("programs")
    made = {}
    for count in (1, 2, 4):
        made[count] = folder / f"{count}.so"
        compile_model(tiny_network(), made[count], target="x86-64-v2", threads=count, tuned="none")
    monkeypatch.undo()
    return made


@pytest.fixture
def bench(monkeypatch, programs, threads_as_compiled):
    """A function that measures a program, and a peer; returns the document and the peer's threads."""

    def call(compiled, asked):
        opened = []

        def open_peer(_path, _network, count):
            opened.append(count)
            return Opened(lambda: None)

        peer = Peer("peer", (), (), "", (Variant("int8", "a peer", None, open_peer),))
        network = SimpleNamespace(model=None, codes=np.zeros((1, 3, 1, 1), np.uint8), is_quantized=False)
        monkeypatch.setattr(measure, "choose_peers", lambda _: ([peer], []))
        monkeypatch.setattr(measure, "network_folder", lambda *_: nullcontext(network))
        monkeypatch.setattr("aqd_deploy.bench.qdq_file.find_qdq", lambda *_: Path("m.qdq.onnx"))
        document = measure.bench(programs[compiled], against=["peer"], threads=asked, rounds=1, runs=1)
        return document, opened

    return call


@pytest.mark.parametrize(
    ("compiled", "asked", "used"),
    [
        (2, None, [min(2, CPUS)]),
        (2, [1], [1]),
        (2, [1, 2], sorted({1, min(2, CPUS)})),
        (2, [4], [min(2, CPUS)]),
        (1, [1, 2, 4], [1]),
        (1, None, [1]),
        (4, [256], [min(4, CPUS)]),
        (4, [1, 1], [1]),
    ],
)
def test_threads_told_are_those_used_here_and_by_the_peer(bench, compiled, asked, used):
    document, opened = bench(compiled, asked)
    assert [each["threads"] for each in document["measured"]] == opened == used
    missing = any(count not in used for count in asked or [compiled])
    assert ("threads" in document["notes"]) == missing
    if missing:
        assert f"compiled for {compiled}; {CPUS} CPU" in document["notes"]["threads"]


def test_a_quota(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(threads, "_ROOT", TREES["half a CPU in a container"].write(tmp_path))
    document, opened = bench(2, [1, 2])
    assert [each["threads"] for each in document["measured"]] == opened == [1]
    said = " ".join(text_view(document).split())
    assert "1 in place of 2" in said and "a quota of 0.5 CPUs" in said and "2 threads min ms" not in said


def test_omp_num_threads_is_a_default(bench, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    document, opened = bench(2, None)
    assert [each["threads"] for each in document["measured"]] == opened == [1]
    assert "OMP_NUM_THREADS=1" in document["notes"]["threads"]
    document, opened = bench(2, [2])
    assert [each["threads"] for each in document["measured"]] == opened == [min(2, CPUS)]


@pytest.mark.parametrize("tvm", ["1", "64", None])
@pytest.mark.parametrize("asked", [None, 1, 2, 256])
def test_the_threads_of_a_program_are_those_of_its_loops(
    programs, asked, tvm, monkeypatch, threads_as_compiled
):
    """Also where TVM's own variable says another number."""
    if tvm is not None:
        monkeypatch.setenv("TVM_NUM_THREADS", tvm)
    program = Program.load(programs[2], asked)
    assert program.threads == min(asked or 2, 2, CPUS)
    in_loops = backend.ffi().get_global_func("runtime.NumThreads")
    if program.threads > 1:
        assert lanes.call(program.threads, in_loops) == program.threads


@pytest.mark.parametrize(
    ("compiled", "asked", "cores", "used", "told"),
    [
        (2, None, 4, [2], None),
        (2, [1, 2], 4, [1, 2], None),
        (2, [4], 4, [2], "2 in place of 4"),
        (4, [1, 2, 4], 1, [1], "1 in place of 2, 1 in place of 4"),
        (1, [2], 4, [1], "1 in place of 2"),
    ],
)
def test_a_device_tells_what_it_uses(programs, monkeypatch, compiled, asked, cores, used, told):
    class Board:
        text = "ssh:board"

        def time(self, _program, runs, _warmup, count):
            self.used_threads = min(count, cores)
            return [1.0] * runs

        def close(self):
            pass

    monkeypatch.setattr(device, "open_device", lambda *_, **__: Board())
    document = device.bench_on_device(programs[compiled], "ssh:board", threads=asked, rounds=2)
    assert [each["threads"] for each in document["measured"]] == used
    assert document["notes"].get("threads", "").startswith(told or "")
    assert bool(document["notes"]) == bool(told)
