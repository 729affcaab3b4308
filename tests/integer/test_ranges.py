"""Proven intervals: tight for single accumulators, and never too narrow."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aqd_deploy.errors import RangeError
from aqd_deploy.integer.ranges import Interval, concatenate, convolution


@given(st.integers(0, 10**6), st.sampled_from([1, 2]), st.booleans(), st.sampled_from([0, 3]))
def test_convolution_range_is_reached_and_never_passed(seed, group, padded, zero_point):
    """The worst inputs of a channel reach its bounds; random inputs, some of them padding, stay inside."""
    rng = np.random.default_rng(seed)
    weights = rng.integers(-9, 10, (4, 2, 2, 2))
    lo = rng.integers(0, 4, 2 * group)
    source = Interval(lo, lo + rng.integers(0, 12, 2 * group))
    interval = convolution(weights, source, group, zero_point, padded)
    low, high = source.lo - zero_point, source.hi - zero_point
    if padded:
        low, high = np.minimum(low, 0), np.maximum(high, 0)
    for channel in range(4):
        first = 2 * (channel * group // 4)
        columns = slice(first, first + 2)
        a, b = low[columns][:, None, None], high[columns][:, None, None]
        w = weights[channel]
        assert (w * np.where(w > 0, b, a)).sum() == interval.hi[channel]
        assert (w * np.where(w > 0, a, b)).sum() == interval.lo[channel]
        x = rng.integers(a, b + 1, w.shape)
        assert interval.lo[channel] <= (w * x).sum() <= interval.hi[channel]


def test_int32_overflow_names_node_channel_and_bound():
    interval = Interval(np.array([0, 0]), np.array([5, 2**31]))
    with pytest.raises(RangeError, match=r"conv_7: channel 1 can reach \[0, 2147483648\]"):
        interval.require_int32("conv_7")


def test_int32_edges():
    fits = Interval(np.array([-(2**31) + 1]), np.array([2**31 - 1]))
    assert fits.require_int32("n") is fits
    with pytest.raises(RangeError):
        Interval(np.array([-(2**31)]), np.array([0])).require_int32("n")


@pytest.mark.parametrize(
    ("lo", "hi", "dtype"),
    [(0, 255, "uint8"), (-1, 127, "int8"), (0, 256, "int16"), (-129, 0, "int16"), (-40000, 0, "int32")],
)
def test_storage_is_the_narrowest_type(lo, hi, dtype):
    assert Interval.uniform(3, lo, hi).storage() == dtype


def test_intervals_clip_shift_and_concatenate():
    interval = Interval(np.array([-5, 1]), np.array([3, 9]))
    assert interval.clipped(0, 4).bounds == (0, 4)
    assert interval.shifted(np.array([10, -1])).bounds == (0, 13)
    assert concatenate([interval, Interval.uniform(1, -7, 0)]).lo.tolist() == [-5, 1, -7]
