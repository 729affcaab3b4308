"""Rice codes: the way back in numpy and by the kernel that a program runs, and when weights are stored so."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from kernel_reference import MCPU, call, compile_functions

from aqd_deploy.compiler import weights
from aqd_deploy.kernels.cpu.unpack.constants import expand_rice_func
from aqd_deploy.kernels.storage.rice_codes import CHUNK, SHIFTS, decode, encode
from aqd_deploy.targets.isa import Isa


def crowded(count: int, spread: float, centre: int, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(centre, spread, count)
    return np.clip(np.round(noise), 0, 255).astype(np.uint8)


@given(hnp.arrays(np.uint8, st.integers(1, 300)))
def test_round_trip(codes):
    np.testing.assert_array_equal(decode(encode(codes)), codes)


@pytest.mark.parametrize("centre", [0, 3, 128, 250, 255])
@pytest.mark.parametrize(("spread", "more"), [(0, 2 * CHUNK + 77), (8, 4 * CHUNK - 256), (60, 9 * CHUNK)])
def test_the_kernel_decodes_what_was_stored(centre, spread, more):
    """Every code occurs, the farthest from the centre too; chunks read together and alone, full and not."""
    codes = np.concatenate([np.arange(256, dtype=np.uint8), crowded(more, spread, centre)])
    stored = encode(codes)
    np.testing.assert_array_equal(decode(stored), codes)
    function = expand_rice_func(codes.size, stored.words.size, stored.centre, stored.shift)
    module = compile_functions({"expand": function}, MCPU[Isa.PORTABLE])
    got = call(module["expand"], [stored.words, stored.starts], [np.full_like(codes, 7)])[0]
    np.testing.assert_array_equal(got, codes)


def test_the_bits_are_those_of_the_definition():
    codes = np.array([100, 101, 99, 255, 0, 100, 100], np.uint8)
    stored = encode(codes)
    assert stored.centre == 100
    number = int.from_bytes(stored.words.tobytes(), "little")
    for folded in (0, 2, 1, 310, 199, 0, 0):
        while number & 1:
            number, folded = number >> 1, folded - (1 << stored.shift)
        assert folded == number >> 1 & ((1 << stored.shift) - 1)
        number >>= 1 + stored.shift
    assert number == 0


@pytest.mark.parametrize("spread", [10, 20, 40, 80])
def test_the_shift_is_the_best_one(spread):
    codes = crowded(10_000, spread, 128)
    stored = encode(codes)
    distance = np.abs(codes.astype(int) - stored.centre) * 2 - (codes < stored.centre)
    sizes = {k: int((distance >> k).sum()) + (k + 1) * codes.size for k in SHIFTS}
    assert stored.shift == min(sizes, key=sizes.__getitem__)
    assert abs(stored.words.nbytes * 8 - sizes[stored.shift]) <= 64


def test_weights_are_stored_so_where_it_is_a_sixteenth_smaller():
    bell = (crowded(90_000, 30, 128).astype(int) - 128).astype(np.int8).reshape(100, 100, 3, 3)
    stored = weights.encode(bell)
    assert stored.rice is not None
    assert stored.nbytes == stored.rice.nbytes < bell.size * 15 / 16
    order = bell.transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(
        stored.offset + stored.step * decode(stored.rice).astype(int), order.ravel()
    )
    flat = np.random.default_rng(0).integers(-128, 128, bell.shape).astype(np.int8)
    for weight in (flat, bell[:10], np.sign(bell)):
        assert weights.encode(weight).rice is None
