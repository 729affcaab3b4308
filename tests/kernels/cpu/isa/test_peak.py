"""The peak probe multiplies what it says, with the instructions that it says, and without memory."""

from __future__ import annotations

import re

import numpy as np
import pytest
from kernel_reference import MCPU, assembly, call, compile_functions, host_runs

from aqd_deploy.kernels.cpu.isa.peak import peak_func, peak_macs, peak_outputs
from aqd_deploy.kernels.cpu.isa.select import instruction_set
from aqd_deploy.targets.isa import Isa

DOTS = [
    pytest.param(dots, id=f"{isa.value} {dots.name}") for isa in Isa for dots in instruction_set(isa).peaks
]
STEPS, THREADS = 5, 2


def expected(dots, weights: np.ndarray) -> np.ndarray:
    """The accumulators' bits after STEPS steps, int32 [accumulators, lanes]."""
    name, width = dots.peak_sums
    narrow, dtype = name != "int32", np.dtype(name)
    count = peak_outputs(dots, 1) // dots.lanes
    acc = np.repeat(np.arange(1, count + 1, dtype=dtype)[:, None], width, axis=1)
    group = dots.vector_bytes // width
    weights = weights.reshape(width, group).astype(np.int64)
    views = {"vpdpbusd": np.uint8, "vpmaddubsw": np.uint8, "vpmaddwd": np.int16}
    for _ in range(STEPS):
        samples = acc.view(views.get(dots.name, dtype)).reshape(count, width, group).astype(np.int64)
        sums = (samples * weights).sum(axis=2)
        sums = np.clip(sums, -(2**15), 2**15 - 1) if narrow else sums
        acc = (acc.astype(np.int64) + sums).astype(dtype)
    return acc.view(np.int32).reshape(count, dots.lanes)


@pytest.mark.parametrize("dots", DOTS)
def test_it_multiplies_what_it_says(dots):
    if not host_runs(dots.isa):
        pytest.skip(f"this machine has no {dots.isa.value}")
    module = compile_functions({"peak": peak_func(dots, THREADS, STEPS)}, MCPU[dots.isa])
    weights = np.random.default_rng(1).integers(-3, 4, dots.vector_bytes).astype(np.int8)
    (out,) = call(module["peak"], [weights], [np.zeros(peak_outputs(dots, THREADS), np.int32)])
    once = expected(dots, weights)
    np.testing.assert_array_equal(out.reshape(THREADS, *once.shape), np.stack([once] * THREADS))
    assert peak_macs(dots, STEPS) == once.shape[0] * dots.vector_bytes * STEPS


@pytest.mark.parametrize(("isa", "register"), [(Isa.VNNI, "zmm"), (Isa.AVXVNNI, "ymm")])
def test_the_loop_is_vpdpbusd_on_registers(isa, register):
    (dots,) = instruction_set(isa).peaks
    text = assembly(compile_functions({"peak": peak_func(dots, 1, 1000)}, MCPU[isa]))
    products = [line.split(None, 1) for line in text.splitlines() if "vpdpbusd" in line]
    count = peak_outputs(dots, 1) // dots.lanes
    assert len(products) % count == 0 and len(products) >= count
    operand = rf"%{register}\d+"
    assert all(re.fullmatch(rf"{operand}, {operand}, {operand}", operands) for _, operands in products)
    # Nothing else happens between the first and the last of them but counting.
    lines = [line.split()[0] for line in text.splitlines() if line.startswith("\t") and line.strip()]
    first, last = lines.index("vpdpbusd"), len(lines) - 1 - lines[::-1].index("vpdpbusd")
    others = set(lines[first:last]) - {"vpdpbusd"}
    assert others <= {"addl", "addq", "decl", "incl", "subl", "jne", "cmpl", ".p2align"}, others
