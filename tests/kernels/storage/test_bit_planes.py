"""Frames of bit planes: sizes and the way back, in numpy and by the kernel that a program runs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from kernel_reference import MCPU, call, compile_functions, host_runs

from aqd_deploy.kernels.cpu.unpack.constants import expand_func
from aqd_deploy.kernels.storage.bit_planes import FRAME, decode, encode
from aqd_deploy.targets.isa import Isa


def extremes(dtype: str) -> np.ndarray:
    """A frame each: the ends of the type, equal values, its largest and its smallest ones, every width."""
    limits = np.iinfo(dtype)
    frames = [np.resize([limits.min, limits.max, 0, -1], FRAME)]
    frames += [np.full(FRAME, value) for value in (limits.min, limits.max, 0)]
    near = np.arange(FRAME, dtype=dtype)
    frames += [limits.min + near, limits.max - near]
    frames += [np.resize([-(1 << b), (1 << b) - 1], FRAME) for b in range(limits.bits)]
    return np.concatenate([frame.astype(dtype) for frame in frames])


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_extremes_come_back(dtype):
    values = extremes(dtype)
    frames = encode(values)
    bits = np.iinfo(dtype).bits
    assert frames.widths.tolist() == [bits, 0, 0, 0, 6, 6, *range(1, bits + 1)]
    np.testing.assert_array_equal(decode(frames), values)


@given(
    st.sampled_from(["int32", "int64"]).flatmap(
        lambda dtype: hnp.arrays(dtype, st.integers(1, 4).map(lambda n: n * FRAME))
    )
)
def test_round_trip(values):
    frames = encode(values)
    decoded = decode(frames)
    assert decoded.dtype == values.dtype
    np.testing.assert_array_equal(decoded, values)


@given(st.integers(0, 62), st.integers(0, 2**32 - 1))
def test_a_frame_takes_the_bits_of_its_differences(bits, seed):
    rng = np.random.default_rng(seed)
    base = rng.integers(-(2**62), 2**61)
    values = base + rng.integers(0, 1 << bits, FRAME)
    values[:2] = base, base + (1 << bits) - 1
    frames = encode(values)
    assert frames.widths.tolist() == [bits]
    assert frames.nbytes == 8 + 1 + 8 * bits


def test_the_planes_are_those_of_the_definition():
    values = np.arange(FRAME, dtype=np.int32)[::-1] * 3 - 100
    frames = encode(values)
    assert frames.bases.tolist() == [-100]
    assert frames.widths.tolist() == [8]
    for j, plane in enumerate(frames.planes.tolist()):
        assert [plane >> lane & 1 for lane in range(FRAME)] == [(int(v) + 100) >> j & 1 for v in values]


@pytest.mark.parametrize("dtype", ["int32", "int64"])
@pytest.mark.parametrize("isa", [isa for isa in (Isa.VNNI, Isa.PORTABLE) if host_runs(isa)])
def test_the_kernel_expands_what_was_stored(dtype, isa):
    rng = np.random.default_rng(5)
    limits = np.iinfo(dtype)
    spans = rng.integers(0, limits.bits, (20, 1))
    noise = rng.integers(limits.min, limits.max, (20, FRAME), dtype) >> spans
    values = np.concatenate([extremes(dtype), noise.astype(dtype).reshape(-1)])
    frames = encode(values)
    function = expand_func(frames.bases.size, frames.planes.size, dtype)
    module = compile_functions({"expand": function}, MCPU[isa])
    inputs = [frames.bases, frames.widths, frames.planes]
    got = call(module["expand"], inputs, [np.empty_like(values)])[0]
    np.testing.assert_array_equal(got, values)
