"""What kernels write, by the names of the integer file."""

from __future__ import annotations

import numpy as np
import pytest

from aqd_deploy.errors import ProgramError
from aqd_deploy.runtime import Program
from aqd_deploy.runtime.intermediates import ResultCopies


def part(tensor, first, height, width):
    return {"tensor": tensor, "first": first, "height": height, "width": width}


def test_results_are_the_last_arguments_and_stacks_are_taken_apart():
    layers = [
        {"results": [[part("a", 0, 1, 2)], [part("b", 0, 2, 1), part("c", 2, 1, 1)]]},
        {"results": [[part("out:nchw", 0, 1, 1)]]},
    ]
    copies = ResultCopies(layers)
    a, stack = np.arange(4, dtype=np.uint8).reshape(1, 2, 2), np.arange(6, dtype=np.int32).reshape(3, 1, 2)
    copies(None, "vm.builtin.alloc", False, None, a)
    copies(None, "conv", True, None, "input", a, stack)
    copies(None, "conv", False, None, "input", a, stack)
    out = np.arange(2, dtype=np.int32).reshape(1, 2, 1, 1)
    copies(None, "conv", False, None, out)
    a[:] = 99
    assert copies.calls == 2
    assert copies.tensors["a"].tolist() == [[[[0, 2]], [[1, 3]]]]
    assert copies.tensors["b"].tolist() == [[[[0], [2]], [[1], [3]]]]
    assert copies.tensors["c"].tolist() == [[[[4]], [[5]]]]
    assert copies.tensors["out"].tolist() == out.tolist()


def test_a_program_that_does_not_say_what_it_writes_is_refused(small_pair):
    program = Program.load(small_pair[0].path)
    assert set(small_pair[0].outputs) <= program.intermediates(small_pair[0].inputs).keys()
    for layer in program.manifest["program"]["layers"]:
        layer.pop("results")
    with pytest.raises(ProgramError, match="does not say which tensors"):
        program.intermediates(small_pair[0].inputs)
