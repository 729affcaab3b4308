"""What networks beyond AQD's need, on ARM under qemu: stages of epilogues, selections, sums of windows."""

import pytest
from arm_runner import MACHINES, Batch, need_machine
from word_cases import epilogue_cases, movement_cases, pieces_cases, steps_cases

pytestmark = [pytest.mark.needs_qemu, pytest.mark.needs_cross]


@pytest.mark.parametrize("isa", list(MACHINES))
def test_words(isa, tmp_path):
    need_machine(isa)
    batch = Batch(isa)
    for case in (*epilogue_cases(isa, 2), *steps_cases(isa, 2), *pieces_cases(isa, 2), *movement_cases(2)):
        batch.add(*case)
    batch.check(tmp_path)
