"""A candidate is accepted only with the right integers and the right instructions."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import tvm

from aqd_deploy.kernels.contract.choice import Choice
from aqd_deploy.kernels.contract.spec import AddBias, ConvSpec, Epilogue, StoreStream
from aqd_deploy.kernels.cpu.backend import CpuBackend
from aqd_deploy.kernels.cpu.conv.families import conv_choices
from aqd_deploy.kernels.cpu.winograd.plan import WinogradPlan
from aqd_deploy.kernels.reference import expected_outputs
from aqd_deploy.records.task import Task
from aqd_deploy.targets import get
from aqd_deploy.targets.isa import Isa
from aqd_deploy.tuning import worker
from aqd_deploy.tuning.operands import Operands, random_weights

DEVICE = get("host")
SPEC = ConvSpec(6, 7, 16, 32, (3, 3), pads=(1, 1, 1, 1))
TASK = Task(SPEC, Epilogue((AddBias(),), (StoreStream(),)), Isa(DEVICE.kernels), 1)
CHOICES = conv_choices(SPEC, TASK.isa, 1)


@pytest.fixture
def operands(tmp_path):
    """A folder with operands of TASK."""
    rng = np.random.default_rng(1)
    data = rng.integers(0, 256, (6, 7, 16)).astype(np.uint8)
    weights, bias = random_weights(SPEC), rng.integers(-99, 99, 32).astype(np.int32)
    expected = expected_outputs(SPEC, TASK.epilogue, data, weights, [bias])
    Operands(data, weights, [bias], expected).save(tmp_path)
    return tmp_path


def built(operands, choice):
    module = worker.candidate_module(TASK, choice, operands, DEVICE.backend)
    return worker.build_candidate(module, tvm.target.Target({**DEVICE.tvm(), "opt-level": 2}))


def evaluated(library, incumbent=None):
    return worker.evaluate(library, incumbent, json.dumps(TASK.to_json()), None, None, None, None)


def test_two_candidates_are_timed_in_turn(operands):
    first, second = built(operands, CHOICES[0]), built(operands, CHOICES[-1])
    assert all(seconds > 0 for seconds in evaluated(first))
    seconds = evaluated(second, first)
    assert len(seconds) % 2 == 0 and len(seconds) >= 10


@pytest.mark.parametrize("output", [0])
def test_one_wrong_integer_is_told(operands, output):
    library = built(operands, CHOICES[0])
    path = operands / f"expected{output:02}.npy"
    wrong = np.load(path)
    wrong[5, 6, 31] += 1
    np.save(path, wrong)
    worker._operands.cache_clear()
    with pytest.raises(worker.NotExactError, match="1 of 1344 integers differ"):
        evaluated(library)


BYTES = ConvSpec(
    8, 8, 16, 16, kernel=(3, 3), pads=(1, 1, 1, 1), input_range=(0, 255), weight_range=(-128, 127)
)
FOUR_BITS = replace(BYTES, input_range=(0, 15), weight_range=(-15, 15))


@pytest.mark.parametrize(
    ("isa", "spec", "line", "other"),
    [
        (Isa.VNNI, BYTES, "vpdpbusd %zmm0, %zmm1, %zmm2", "vpmaddwd %zmm0, %zmm1, %zmm2"),
        (Isa.AVX2, BYTES, "vpmaddwd %ymm0, %ymm1, %ymm2", "vpmulld"),
        (Isa.AVX2, FOUR_BITS, "vpmaddubsw %ymm0, %ymm1, %ymm2", "vpmaddwd"),
        (Isa.I8MM, BYTES, "usmmla v0.4s, v1.16b, v2.16b", "smmla v0.4s, v1.16b, v2.16b"),
        (Isa.I8MM, FOUR_BITS, "smmla v0.4s, v1.16b, v2.16b", "sdot v0.4s, v1.16b, v2.4b[0]"),
        (Isa.DOTPROD, BYTES, "sdot v0.4s, v1.16b, v2.4b[0]", "smlal v0.8h, v1.8b, v2.8b"),
        (Isa.NEON, FOUR_BITS, "smlal2 v0.8h, v1.16b, v2.16b", "mla v0.4s, v1.4s, v2.4s"),
        (Isa.NEON, BYTES, "smull v0.8h, v1.8b, v2.8b", "mul v0.4s, v1.4s, v2.4s"),
        (Isa.NEON32, FOUR_BITS, "vmlal.s8 q0, d2, d3", "vmla.i32 q0, q1, q2"),
    ],
)
def test_a_kernel_without_its_instructions_is_told(isa, spec, line, other):
    blocked = Choice.of("blocked", rows=1)
    worker.check_instructions(CpuBackend(isa), spec, blocked, f"\t{line}")
    with pytest.raises(worker.InstructionError, match="its code has no"):
        worker.check_instructions(CpuBackend(isa), spec, blocked, f"\t{other}")


def test_wide_forms_have_their_own_instructions():
    wide = Choice.of("winograd", **WinogradPlan("f4x4_wide", 6, 4, 24, 1).parameters())
    spec = replace(BYTES, winograd=("f4x4_wide",))
    worker.check_instructions(CpuBackend(Isa.VNNI), spec, wide, "vpdpwssd %zmm0, %zmm1, %zmm2")
    worker.check_instructions(CpuBackend(Isa.NEON), spec, wide, "smlal v0.4s, v1.4h, v2.4h")
    with pytest.raises(worker.InstructionError, match="vpdpwssd"):
        worker.check_instructions(CpuBackend(Isa.VNNI), spec, wide, "vpdpbusd %zmm0, %zmm1, %zmm2")


def test_kernels_of_plain_arithmetic_have_none():
    worker.check_instructions(CpuBackend(Isa.PORTABLE), BYTES, Choice.of("blocked", rows=1), "pmulld")
    worker.check_instructions(CpuBackend(Isa.VNNI), BYTES, Choice("loops"), "imul")
