"""What padding with other values than zeros adds to a convolution, against numpy with such a padding."""

from dataclasses import replace

import numpy as np
import pytest

from aqd_deploy.compiler.padding import border_sums
from aqd_deploy.kernels.contract.spec import ConvSpec, Map

VALUES = tuple(range(-3, 9))
SPECS = {
    "3x3": ConvSpec(6, 7, 12, 5, (3, 3), pads=(1, 1, 1, 1)),
    "strides that leave a row": ConvSpec(8, 7, 12, 5, (3, 3), (2, 2), (1, 0, 1, 1)),
    "dilated, as pads": ConvSpec(9, 5, 12, 5, (3, 2), (1, 2), (4, 1, 2, 0), (2, 1)),
    "smaller than its kernel": ConvSpec(2, 1, 12, 5, (5, 5), pads=(2, 2, 2, 2)),
    "odd": ConvSpec(4, 4, 12, 5, (3, 3), pads=(1, 1, 1, 1), odd=True),
    "groups": ConvSpec(4, 5, 12, 8, (3, 3), pads=(0, 1, 1, 0), group=4),
    "levels": ConvSpec(14, 1, 12, 5, (3, 3), pads=(1, 1, 1, 1), levels=((3, 3), (2, 2), (1, 1))),
}


def convolved(spec: ConvSpec, m: Map, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """int64 [OH, OW, O] of a map of ones, padded with `values`."""
    top, left, bottom, right = spec.pads
    padded = np.ones((m.height + top + bottom, m.width + left + right, spec.in_channels), np.int64)
    padded[:] = values
    padded[top : top + m.height, left : left + m.width] = 1
    result = np.zeros((m.out_height, m.out_width, spec.out_channels), np.int64)
    inputs, outputs = spec.in_channels // spec.group, spec.out_channels // spec.group
    for y, x, o in np.ndindex(result.shape):
        rows = y * spec.strides[0] + np.arange(spec.kernel[0]) * spec.dilations[0]
        columns = x * spec.strides[1] + np.arange(spec.kernel[1]) * spec.dilations[1]
        mine = o // outputs * inputs + np.arange(inputs)
        result[y, x, o] = (padded[np.ix_(rows, columns, mine)].transpose(2, 0, 1) * weights[o]).sum()
    return result


def edge(place: int, size: int, first: int, last: int) -> int:
    """The kind of a row or column: the first ones, all between, the last ones."""
    if place < first:
        return place
    return first if place < size - last else first + 1 + place - (size - last)


@pytest.mark.parametrize("name", SPECS)
def test_sums_are_what_a_padding_adds(name):
    spec = replace(SPECS[name], pad_values=VALUES)
    shape = (spec.out_channels, spec.in_channels // spec.group, *spec.kernel)
    weights = np.random.default_rng(3).integers(-128, 128, shape).astype(np.int8)
    true = weights.astype(np.int64) * (2 if spec.odd else 1) + spec.odd
    border = border_sums(spec, weights)
    top, left, bottom, right = border.edges
    sums = border.sums.reshape(-1, len(spec.maps), spec.out_channels)
    for level, m in enumerate(spec.maps):
        zeros = np.zeros(spec.in_channels, np.int64)
        missing = convolved(spec, m, np.array(VALUES), true) - convolved(spec, m, zeros, true)
        assert missing.any()
        for y, x in np.ndindex(m.out_height, m.out_width):
            rows, columns = edge(y, m.out_height, top, bottom), edge(x, m.out_width, left, right)
            np.testing.assert_array_equal(sums[rows * (left + 1 + right) + columns, level], missing[y, x])


def test_padding_with_zeros_adds_nothing():
    assert border_sums(SPECS["3x3"], np.ones((5, 12, 3, 3), np.int8)) is None
