"""Steps of a channel's own."""

import numpy as np
import pytest
from canonical_meaning import assert_same_meaning, canonical
from small_files import FileBuilder, ops

from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.passes.pipeline import lower


def quantized_by_channel(b, x, zeros, axis=1):
    names = [
        b.constant("steps", b.rng.uniform(0.1, 0.5, len(zeros)).astype(np.float32)),
        b.constant("zeros", np.array(zeros, np.uint8)),
    ]
    q = b.node("QuantizeLinear", [x, *names], axis=axis)
    return b.node("DequantizeLinear", [q, *names], axis=axis)


@pytest.mark.parametrize("axis", [1, -3])
def test_case_1_in_front_of_a_depthwise_convolution(axis):
    b = FileBuilder()
    x = quantized_by_channel(b, b.conv(b.quantize("image")), [7, 7, 7, 7], axis)
    y = b.node("Conv", [x, b.weights((4, 1, 3, 3), 0)], group=4)
    state = b.rewritten(b.quantize(y, 0.5))
    assert ops(state.model) == ["Conv", "Div", "Conv"]
    assert lower(b.model(b.quantize(y, 0.5))).report["requantized_channels"] == 8


def test_case_2_zero_points_that_differ_by_even_numbers():
    b = FileBuilder()
    x = quantized_by_channel(b, b.conv(b.quantize("image")), [7, 9, 7, 129])
    model = b.model(b.quantize(b.node("Conv", [x, b.weights((4, 1, 3, 3), 0)], group=4), 0.5))
    assert ops(assert_same_meaning(model, b.images()).model) == ["Conv", "Div", "Add", "Conv"]
    assert lower(model).report["requantized_channels"] == 8


def test_case_3_other_zero_points_and_axes():
    for zeros, axis in (([7, 7, 7, 8], 1), ([7] * 6, 2)):
        b = FileBuilder()
        x = quantized_by_channel(b, b.conv(b.quantize("image")), zeros, axis)
        model = b.model(b.quantize(b.node("Conv", [x, b.weights((4, 1, 3, 3), 0)], group=4), 0.5))
        assert "Div" not in ops(canonical(model).model)
        with pytest.raises(UnsupportedModelError, match="one scale per channel"):
            lower(model)


def test_case_3_an_input():
    b = FileBuilder()
    model = b.model(b.conv(quantized_by_channel(b, "image", [7, 7, 7, 7])))
    with pytest.raises(UnsupportedModelError, match="8-bit image"):
        lower(model)
