"""Linear Resize that halves a map."""

import numpy as np
import pytest
from small_files import FileBuilder, ops

MIDDLES = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}


def resized(b, x, scales=(1, 1, 0.5, 0.5), **modes):
    scales = b.constant("scales", np.array(scales, np.float32))
    return b.node("Resize", [x, "", scales], **modes)


@pytest.mark.parametrize("place", ["half_pixel", "pytorch_half_pixel"])
def test_case_1_a_mean_of_four(place):
    """As NanoDet's pyramid has it; the meaning is compared in float64."""
    b = FileBuilder(shape=(1, 4, 6, 8))
    y = resized(b, b.conv(b.quantize("image")), mode="linear", coordinate_transformation_mode=place)
    state = b.rewritten(b.conv(b.quantize(y)))
    assert ops(state.model) == ["Conv", "AveragePool", "Conv"]


@pytest.mark.parametrize(
    ("scales", "modes", "opset"),
    [
        ((1, 1, 2, 2), MIDDLES, 17),
        ((1, 1, 1, 0.5), MIDDLES, 17),
        ((1, 1, 0.5, 0.5), {"mode": "linear", "coordinate_transformation_mode": "asymmetric"}, 17),
        ((1, 1, 0.5, 0.5), {"mode": "nearest", "coordinate_transformation_mode": "half_pixel"}, 17),
        ((1, 1, 0.5, 0.5), {**MIDDLES, "antialias": 1}, 18),
    ],
    ids=["doubled", "one side", "every second one", "the nearest", "antialiased"],
)
def test_case_2_other_sizes_and_modes_stay(scales, modes, opset):
    b = FileBuilder(opset=opset)
    state = b.rewritten(b.conv(b.quantize(resized(b, b.conv(b.quantize("image")), scales, **modes))))
    assert ops(state.model) == ["Conv", "Resize", "Conv"]


def test_case_2_an_odd_side_stays():
    b = FileBuilder(shape=(1, 4, 7, 6))
    state = b.rewritten(b.conv(b.quantize(resized(b, b.conv(b.quantize("image")), **MIDDLES))))
    assert ops(state.model) == ["Conv", "Resize", "Conv"]
