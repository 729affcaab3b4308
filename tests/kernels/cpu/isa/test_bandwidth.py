"""The bandwidth probe reads every byte of what it says, as often as it says."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_reference import MCPU, assembly, call, compile_functions, host_runs

from aqd_deploy.kernels.contract.caches import KIB, Core
from aqd_deploy.kernels.cpu.isa.bandwidth import read, reads
from aqd_deploy.targets.isa import Isa


@pytest.mark.parametrize("isa", [isa for isa in (Isa.VNNI, Isa.AVX2, Isa.PORTABLE) if host_runs(isa)])
def test_every_value_counts_as_often_as_it_is_read(isa):
    threads, repeats = 3, 4
    probe = read("L2 cache", threads, 5000, repeats)
    assert probe.bytes == 4 * probe.values * repeats and 4000 < 4 * probe.values <= 5000
    data = np.random.default_rng(1).integers(-(2**31), 2**31, probe.values).astype(np.int32)
    module = compile_functions({"read": probe.prim_func}, MCPU[isa])
    (out,) = call(module["read"], [data], [np.zeros(probe.outputs, np.int32)])
    expected = data.reshape(threads, -1, probe.outputs // threads).astype(np.int64).sum(axis=1) * repeats
    np.testing.assert_array_equal(out.reshape(threads, -1), expected.astype(np.int32))


def test_the_loop_adds_from_memory():
    text = assembly(compile_functions({"read": read("memory", 1, 10**6, 1).prim_func}, MCPU[Isa.AVX2]))
    assert sum("vpaddd" in line and "(" in line for line in text.splitlines()) >= 8


def test_levels_are_those_of_the_core():
    near, far = reads(Core(l2=512 * KIB, l3=32 * 1024 * KIB), 2)
    assert (near.name, near.values * 4) == ("L2 cache", 512 * KIB)
    assert (far.name, far.values * 4, far.bytes) == ("memory", 128 * 1024 * KIB, 128 * 1024 * KIB)
    assert near.bytes >= 64 * 1024 * KIB
    assert reads(Core(l3=0), 1)[1].bytes == 64 * 1024 * KIB
    assert reads(Core(l3=1024 * 1024 * KIB), 1)[1].bytes == 512 * 1024 * KIB
