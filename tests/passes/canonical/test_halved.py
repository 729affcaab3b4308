"""Linear Resize that halves a map."""

import numpy as np
import pytest
from small_files import FileBuilder, ops

from aqd_deploy.passes.canonical.draft import Draft
from aqd_deploy.passes.canonical.halved import halve_by_averages

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


def stays(b, *args, **modes):
    y = resized(b, b.conv(b.quantize("image")), *args, **modes)
    draft = Draft(b.model(y))
    halve_by_averages(draft)
    return ops(draft.write()) == ["Conv", "Resize"]


def test_case_2_another_scale_that_halves_the_sides_as_well_stays():
    """6 rows become 3, which lie elsewhere."""
    assert stays(FileBuilder(), (1, 1, 0.51, 0.51), **MIDDLES)
    assert not stays(FileBuilder(), **MIDDLES)


def test_case_1_one_element_in_all_is_no_mean_for_pytorch():
    modes = {"mode": "linear", "coordinate_transformation_mode": "pytorch_half_pixel"}
    assert stays(FileBuilder(shape=(1, 4, 2, 2)), **modes)
    assert not stays(FileBuilder(shape=(1, 4, 2, 2)), **MIDDLES)
