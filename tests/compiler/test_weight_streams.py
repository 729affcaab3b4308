"""Weights in b bits: sizes and the way back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from aqd_deploy.compiler.weights import decode, encode
from aqd_deploy.kernels.storage.layout import pack_codes


@pytest.mark.parametrize("bits", range(1, 9))
def test_odd_grid_takes_its_own_bits(bits):
    codes = np.arange(1 << bits).repeat(24).reshape(-1, 4, 3, 2)
    weight = (2 * codes - (1 << bits) + 1 if bits < 8 else codes - 128).astype(np.int8)
    encoded = encode(weight)
    assert encoded.bits == bits
    assert encoded.stream.nbytes == -(-weight.size * bits // 8)
    np.testing.assert_array_equal(decode(encoded), weight)


@given(hnp.arrays(np.int8, st.tuples(*[st.integers(1, 4)] * 4)))
def test_round_trip(weight):
    np.testing.assert_array_equal(decode(encode(weight)), weight)


def test_constant_weights():
    weight = np.full((2, 3, 1, 1), -7, np.int8)
    encoded = encode(weight)
    assert (encoded.bits, encoded.offset) == (1, -7)
    np.testing.assert_array_equal(decode(encoded), weight)


@pytest.mark.parametrize("bits", [2, 3, 5, 8])
def test_stream_is_the_one_the_kernels_unpack(bits):
    codes = np.random.default_rng(bits).integers(0, 1 << bits, 50)
    codes[:2] = 0, (1 << bits) - 1
    weight = (codes - (1 << (bits - 1))).astype(np.int8).reshape(5, 10, 1, 1)
    np.testing.assert_array_equal(encode(weight).stream, pack_codes(codes, bits))
