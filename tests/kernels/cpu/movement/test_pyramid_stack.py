"""Stacks of maps and the channels-first border: every value arrives where it belongs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_reference import MCPU, call, compile_functions

from aqd_deploy.kernels.cpu.movement import pyramid_stack
from aqd_deploy.targets.isa import Isa

SIZES = ((9, 7), (4, 4), (1, 1), (3, 5))


def run(function, inputs, outputs):
    return call(compile_functions({"f": function}, MCPU[Isa.PORTABLE])["f"], inputs, outputs)


def starts(sizes) -> list[int]:
    return np.cumsum([0, *(h * w for h, w in sizes)])[:-1].tolist()


@pytest.mark.parametrize("dtype", ["uint8", "int32"])
def test_stack_and_back(dtype):
    maps = [
        np.random.default_rng(i).integers(0, 200, (h, w, 5)).astype(dtype) for i, (h, w) in enumerate(SIZES)
    ]
    pixels = sum(h * w for h, w in SIZES)
    (stacked,) = run(pyramid_stack.stack(SIZES, 5, dtype), maps, [np.zeros((pixels, 1, 5), dtype)])
    np.testing.assert_array_equal(stacked, np.concatenate([m.reshape(-1, 1, 5) for m in maps]))
    function = pyramid_stack.unstack(pixels, starts(SIZES)[1:], SIZES[1:], 5, dtype)
    back = run(function, [stacked], [np.zeros_like(m) for m in maps[1:]])
    for expected, got in zip(maps[1:], back, strict=True):
        np.testing.assert_array_equal(got, expected)


@settings(max_examples=10)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=3),
    st.sampled_from([1, 4, 15, 16, 17, 40]),
    st.sampled_from(["uint8", "int32"]),
    st.integers(1, 3),
)
def test_channels_first(sizes, channels, dtype, threads):
    pixels = sum(h * w for h, w in sizes)
    data = np.random.default_rng(0).integers(0, 250, (pixels, 1, channels)).astype(dtype)
    function = pyramid_stack.to_channels_first(data.shape, starts(sizes), sizes, dtype, threads)
    got = run(function, [data], [np.full((1, channels, h, w), 99, dtype) for h, w in sizes])
    for first, (h, w), out in zip(starts(sizes), sizes, got, strict=True):
        expected = data[first : first + h * w, 0].T.reshape(1, channels, h, w)
        np.testing.assert_array_equal(out, expected)
