"""Selections, squares of channels, sums of windows and linear upsampling, against numpy."""

import numpy as np
import pytest
from kernel_reference import MCPU, call, compile_functions
from word_cases import CHANNELS, movement_cases

from aqd_deploy.targets.isa import Isa


@pytest.mark.parametrize(("threads", "counts"), [(1, CHANNELS), (2, CHANNELS[1:2])])
def test_movements(threads, counts):
    """Two threads only share rows out."""
    found = list(movement_cases(threads, counts))
    module = compile_functions({f"f{i}": case[1] for i, case in enumerate(found)}, MCPU[Isa.PORTABLE])
    for i, (label, _, inputs, (expected,)) in enumerate(found):
        (got,) = call(module[f"f{i}"], inputs, [np.full_like(expected, 99)])
        np.testing.assert_array_equal(got, expected, err_msg=label)
