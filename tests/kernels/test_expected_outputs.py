"""The reference of the tuner is plain integer arithmetic."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from aqd_deploy.kernels.contract.spec import AddBias, ConvSpec, Epilogue, Relu, StoreRequantize, StoreStream
from aqd_deploy.kernels.reference import accumulators, expected_outputs


def by_definition(spec, data, weights):
    """int64 [pixels, O], value by value."""
    kernel = weights.astype(np.int64) * 2 + 1 if spec.odd else weights.astype(np.int64)
    pads = spec.pad_values or (0,) * spec.in_channels
    group_in, group_out = spec.in_channels // spec.group, spec.out_channels // spec.group
    rows = []
    for m in spec.maps:
        image = data.reshape(-1, spec.in_channels)[m.in_start : m.in_start + m.height * m.width]
        image = image.reshape(m.height, m.width, -1).astype(np.int64)
        for y in range(m.out_height):
            for x in range(m.out_width):
                total = np.zeros(spec.out_channels, np.int64)
                for ky, kx in np.ndindex(*spec.kernel):
                    row = y * spec.strides[0] + ky * spec.dilations[0] - spec.pads[0]
                    column = x * spec.strides[1] + kx * spec.dilations[1] - spec.pads[1]
                    inside = 0 <= row < m.height and 0 <= column < m.width
                    sample = image[row, column] if inside else np.array(pads)
                    for o in range(spec.out_channels):
                        first = o // group_out * group_in
                        total[o] += sample[first : first + group_in] @ kernel[o, :, ky, kx]
                rows.append(total)
    return np.stack(rows)


@st.composite
def specs(draw):
    group = draw(st.sampled_from([1, 1, 2]))
    channels = group * draw(st.integers(1, 3))
    signed = draw(st.booleans())
    levels = draw(st.sampled_from([(), ((4, 3), (2, 2))]))
    height, width = (sum(h * w for h, w in levels), 1) if levels else (draw(st.integers(3, 6)), 4)
    pads = None if levels else draw(st.sampled_from([None, (7,) * channels]))
    return ConvSpec(
        height,
        width,
        channels,
        group * draw(st.integers(1, 3)),
        draw(st.sampled_from([(1, 1), (2, 2), (3, 1)])),
        (1, 1) if levels else draw(st.sampled_from([(1, 1), (2, 1)])),
        (1, 1, 1, 1),
        group=group,
        odd=draw(st.booleans()),
        pad_values=pads,
        input_signed=signed,
        levels=levels,
    )


@settings(max_examples=40)
@given(specs(), st.integers(0, 99), st.booleans())
def test_accumulators(spec, seed, small):
    rng = np.random.default_rng(seed)
    lo, hi = (-128, 127) if spec.input_signed else (0, 255)
    if small:
        lo, hi = max(lo, -3), min(hi, 3)
    dtype = np.int8 if spec.input_signed else np.uint8
    data = rng.integers(lo, hi + 1, (spec.height, spec.width, spec.in_channels)).astype(dtype)
    shape = (spec.out_channels, spec.in_channels // spec.group, *spec.kernel)
    weights = rng.integers(-128, 128, shape).astype(np.int8)
    got = accumulators(spec, data, weights)
    assert got.dtype == np.int32 and got.shape == (spec.out_height, spec.out_width, spec.out_channels)
    assert np.array_equal(got.reshape(-1, spec.out_channels), by_definition(spec, data, weights))


def test_a_sum_that_float32_cannot_hold():
    # 4608 products of 255 · 127 need 28 bits; one of them is odd.
    spec = ConvSpec(3, 3, 512, 1, (3, 3))
    data = np.full((3, 3, 512), 255, np.uint8)
    weights = np.full((1, 512, 3, 3), 127, np.int8)
    weights[0, 0, 0, 0] = 126
    assert accumulators(spec, data, weights).item() == 4608 * 255 * 127 - 255


def test_the_epilogue_follows():
    spec = ConvSpec(4, 1, 1, 2, (1, 1), levels=((1, 3), (1, 1)))
    data = np.array([1, 2, 3, 4], np.uint8).reshape(4, 1, 1)
    weights = np.array([1, -1], np.int8).reshape(2, 1, 1, 1)
    epilogue = Epilogue((AddBias(), Relu()), (StoreStream(), StoreRequantize(0, 3)))
    bias = np.array([0, 2, 10, 20], np.int32)
    c, b, d = (
        np.array([1, 1, 3, 1], np.int32),
        np.array([0, 0, 1, 0], np.int64),
        np.array([0, 0, 4, 3], np.int32),
    )
    stream, levels = expected_outputs(spec, epilogue, data, weights, [bias, c, b, d])
    assert stream.reshape(4, 2).tolist() == [[1, 1], [2, 0], [3, 0], [14, 16]]
    assert levels.reshape(4, 2).tolist() == [[1, 1], [2, 0], [3, 0], [2, 2]]
