"""The functions that measure memory read all of it, and as often as they say."""

from __future__ import annotations

import numpy as np
from kernel_reference import MCPU, assembly, call, compile_functions

from aqd_deploy.kernels.contract.caches import Core
from aqd_deploy.kernels.cpu.stream import STEP_BYTES, stream, streams
from aqd_deploy.targets.isa import Isa

THREADS, SWEEPS = 2, 3


def test_it_reads_every_word_in_every_sweep():
    made = stream("memory", THREADS, 5 * STEP_BYTES - 1, SWEEPS)
    module = compile_functions({"read": made.prim_func}, MCPU[Isa.PORTABLE])
    data = np.random.default_rng(1).integers(-1000, 1000, made.words).astype(np.int32)
    (out,) = call(module["read"], [data], [np.zeros(made.outputs, np.int32)])
    parts = data.reshape(THREADS, 5, STEP_BYTES // 4)
    np.testing.assert_array_equal(out.reshape(THREADS, -1), SWEEPS * parts.sum(axis=1))
    assert made.read_bytes == SWEEPS * data.nbytes


def test_the_loop_does_not_store():
    made = stream("memory", 1, 1 << 20, 2)
    text = assembly(compile_functions({"read": made.prim_func}, MCPU[Isa.AVX2]))
    sums = [line for line in text.splitlines() if "vpaddd" in line and "(" in line]
    assert len(sums) % 8 == 0 and len(sums) >= 8, "a register a half of 16 lanes, added from memory"


def test_the_buffers():
    kib = 1024
    memory, near = streams(Core(l2=512 * kib, l3=32768 * kib), 2)
    assert (memory.name, near.name) == ("memory", "L2")
    assert 4 * memory.words == 4 * 32768 * kib and memory.read_bytes == 4 * memory.words
    assert 4 * near.words == 2 * 256 * kib and near.read_bytes >= memory.read_bytes
    # A board's memory holds it, and a server's large cache does not.
    assert 4 * streams(Core(l2=256 * kib, l3=0), 1)[0].words == 64 << 20
    assert 4 * streams(Core(l3=1 << 30), 3)[0].words <= (256 << 20) + 3 * STEP_BYTES
