"""Tables of 256 bytes: every entry, on every instruction set, by the instructions that are meant for them."""

import re

import numpy as np
import pytest
from arm_runner import MACHINES, Batch, compile_arm, need_machine
from kernel_reference import MCPU, assembly, call, compile_functions, host_runs
from table_cases import behind_convolutions, every_index

from aqd_deploy.targets.isa import Isa

ISAS = [isa for isa in MCPU if host_runs(isa)]
INSTRUCTIONS = {
    Isa.AMX: r"\tvperm[it]2b\t",
    Isa.VNNI: r"\tvperm[it]2d\t",
    Isa.AVX512: r"\tvperm[it]2d\t",
    Isa.AVXVNNI: r"\tvpshufb\t",
    Isa.AVX2: r"\tvpshufb\t",
}


@pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.value)
def test_no_code_differs(isa):
    found = [*every_index(isa), *behind_convolutions(isa)]
    module = compile_functions({f"f{i}": case[1] for i, case in enumerate(found)}, MCPU[isa])
    for i, (label, _, inputs, expected) in enumerate(found):
        got = call(module[f"f{i}"], inputs, [np.full_like(e, 99) for e in expected])
        for e, g in zip(expected, got, strict=True):
            np.testing.assert_array_equal(g, e, err_msg=label)


@pytest.mark.parametrize("isa", INSTRUCTIONS, ids=lambda isa: isa.value)
def test_x86_looks_up_vectors(isa):
    label, function, *_ = next(iter(behind_convolutions(isa)))
    text = assembly(compile_functions({"f": function}, MCPU[isa]))
    assert re.search(INSTRUCTIONS[isa], text), label


@pytest.mark.needs_qemu
@pytest.mark.needs_cross
@pytest.mark.parametrize("isa", list(MACHINES))
def test_no_code_differs_on_arm(isa, tmp_path):
    need_machine(isa)
    batch = Batch(isa)
    for case in (*every_index(isa), *behind_convolutions(isa)):
        batch.add(*case)
    batch.check(tmp_path)


@pytest.mark.parametrize("isa", [Isa.I8MM, Isa.DOTPROD, Isa.NEON])
def test_arm_looks_up_vectors(isa):
    for label, function, *_ in behind_convolutions(isa):
        text = compile_arm({"f": function}, isa).inspect_source("s")
        four = r"\tt{}\s+v\d+\.(?:16b|8b), \{{ v\d+\.16b, v\d+\.16b, v\d+\.16b, v\d+\.16b \}}"
        first, more = (len(re.findall(four.format(end), text)) for end in ("bl", "bx"))
        assert (first >= 1 and more >= 3) or label == "a rest", label
