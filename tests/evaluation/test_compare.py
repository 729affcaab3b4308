"""Comparisons of two runs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from aqd_deploy.errors import ShapeError
from aqd_deploy.evaluation.compare import (
    FloatAgreement,
    IntegerDifference,
    compare_floats,
    compare_integers,
    dequantize,
    total_difference,
)

int32 = arrays.arrays(np.int32, (1, 3, 2, 2), elements=st.integers(-(2**31), 2**31 - 1))


@given(int32, int32)
def test_integers_are_counted_without_overflow(a, b):
    pairs = [(int(x), int(y)) for x, y in zip(a.ravel(), b.ravel(), strict=True)]
    expected = IntegerDifference(12, sum(x != y for x, y in pairs), max(abs(x - y) for x, y in pairs))
    assert compare_integers({"o": a}, {"o": b}) == {"o": expected}


def test_totals():
    first = {"a": np.array([1, 2, 3]), "b": np.array([0], np.uint8)}
    second = {"a": np.array([1, 2, 9]), "b": np.array([255], np.int32)}
    report = compare_integers(first, second)
    assert report == {"a": IntegerDifference(3, 1, 6), "b": IntegerDifference(1, 1, 255)}
    assert total_difference(report) == IntegerDifference(4, 2, 255)
    assert total_difference({}) == IntegerDifference(0, 0, 0)


def test_floats_by_hand():
    report = compare_floats({"o": np.array([[3.0, 4.0]])}, {"o": np.array([[4.0, 3.0]])})["o"]
    assert report == FloatAgreement(2, 1.0, 1.0, pytest.approx(-1.0), pytest.approx(24 / 25))


def test_equal_and_constant_floats():
    ones, zeros = np.ones((1, 2)), np.zeros((1, 2))
    assert compare_floats({"o": ones}, {"o": ones})["o"] == FloatAgreement(2, 0.0, 0.0, 1.0, 1.0)
    against = compare_floats({"o": ones}, {"o": zeros})["o"]
    assert against.max_abs == 1.0 and math.isnan(against.correlation) and math.isnan(against.cosine)


def test_dequantize():
    values = np.array([[[[2]], [[-3]]]], np.int32)
    assert dequantize({"o": values}, {"o": 0.5})["o"].ravel().tolist() == [1.0, -1.5]
    assert dequantize({"o": values}, {"o": [0.5, 2.0]})["o"].ravel().tolist() == [1.0, -6.0]
    for scale in ({}, {"o": [1.0, 2.0, 3.0]}):
        with pytest.raises(ShapeError, match="wrong number of scales"):
            dequantize({"o": values}, scale)


@pytest.mark.parametrize("compare", [compare_integers, compare_floats])
def test_runs_of_different_networks_are_refused(compare):
    one, other = np.zeros((1, 2), np.int32), np.zeros((1, 3), np.int32)
    with pytest.raises(ShapeError, match=r"different outputs.*'a'.*'b'"):
        compare({"a": one}, {"b": one})
    with pytest.raises(ShapeError, match=r"two shapes.*\[1, 2\] and \[1, 3\]"):
        compare({"a": one}, {"a": other})


def test_floats_are_not_compared_as_integers():
    with pytest.raises(ShapeError, match=r"not integer.*float32"):
        compare_integers({"a": np.zeros(2, np.int32)}, {"a": np.zeros(2, np.float32)})
