"""Pooling, upsampling, concatenation, border layouts and standalone epilogues against numpy."""

import numpy as np
import pytest
from kernel_reference import MCPU, call, compile_functions, epilogue_params, finish

from aqd_deploy.errors import ShapeError
from aqd_deploy.kernels.contract.spec import (
    AddBias,
    Epilogue,
    MultiplyShift,
    Relu,
    SkipAdd,
    StoreRequantize,
    StoreStream,
    StoreThreshold,
)
from aqd_deploy.kernels.cpu.movement import pointwise
from aqd_deploy.targets.isa import Isa

HEIGHT, WIDTH, CHANNELS = 9, 6, 37
RANGES = {"uint8": (0, 256), "int8": (-128, 128), "int32": (-(2**31), 2**31)}


def sample(dtype: str, shape=(HEIGHT, WIDTH, CHANNELS), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(*RANGES[dtype], shape).astype(dtype)


def run(function, inputs, shape, dtype) -> np.ndarray:
    module = compile_functions({"f": function}, MCPU[Isa.PORTABLE])
    return call(module["f"], inputs, [np.zeros(shape, dtype)])[0]


@pytest.mark.parametrize("dtype", RANGES)
@pytest.mark.parametrize(
    ("kernel", "strides", "pads"),
    [
        ((3, 3), (2, 2), (1, 1, 1, 1)),
        ((2, 3), (1, 2), (0, 2, 1, 0)),
        ((1, 1), (1, 1), (0, 0, 0, 0)),
        ((HEIGHT, 64), (1, 1), (0, 63, 0, 32)),
    ],
)
def test_max_pool(dtype, kernel, strides, pads):
    data = sample(dtype)
    top, left, bottom, right = pads
    lowest = np.iinfo(dtype).min
    padded = np.pad(data, ((top, bottom), (left, right), (0, 0)), constant_values=lowest)
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel, (0, 1))
    expected = windows[:: strides[0], :: strides[1]].max((-2, -1))
    function = pointwise.max_pool(HEIGHT, WIDTH, CHANNELS, kernel, strides, pads, dtype, 2)
    assert np.array_equal(run(function, [data], expected.shape, dtype), expected)


def test_max_pool_refuses_windows_of_padding():
    with pytest.raises(ShapeError, match="window"):
        pointwise.max_pool(4, 4, 8, (2, 2), (2, 2), (2, 0, 0, 0), "uint8", 1)


@pytest.mark.parametrize("dtype", RANGES)
def test_upsample(dtype):
    data = sample(dtype)
    expected = data.repeat(2, 0).repeat(3, 1)
    function = pointwise.upsample(HEIGHT, WIDTH, CHANNELS, (2, 3), dtype, 2)
    assert np.array_equal(run(function, [data], expected.shape, dtype), expected)


@pytest.mark.parametrize("dtype", RANGES)
def test_concat(dtype):
    parts = [sample(dtype, (HEIGHT, WIDTH, n), n) for n in (37, 1, 64)]
    expected = np.concatenate(parts, 2)
    function = pointwise.concat(HEIGHT, WIDTH, (37, 1, 64), dtype, 2)
    assert np.array_equal(run(function, parts, expected.shape, dtype), expected)


@pytest.mark.parametrize("shape", [(HEIGHT, WIDTH, CHANNELS), (1, 1, 3), (2, 3, 720), (16, 40, 16)])
@pytest.mark.parametrize("dtype", ["uint8", "int32"])
def test_channels_last(shape, dtype):
    height, width, channels = shape
    data = sample(dtype, shape)
    planes = data.transpose(2, 0, 1)[None]
    back = pointwise.nchw_to_nhwc(height, width, channels, dtype, 2)
    assert np.array_equal(run(back, [planes], data.shape, dtype), data)


@pytest.mark.parametrize("dtype", RANGES)
@pytest.mark.parametrize("channels", [5, 32, 37])
def test_standalone_epilogue(dtype, channels):
    epilogue = Epilogue(
        (AddBias(), MultiplyShift(), SkipAdd(upsample=2), Relu()),
        (StoreStream(), StoreRequantize(-8, 7, "int8"), StoreThreshold(1, 4)),
    )
    shape = (8, 6, channels)
    data = sample(dtype, shape)
    if dtype == "int32":
        data = data >> 4
    params = epilogue_params(np.random.default_rng(1), epilogue, shape, 2**28)
    expected = finish(epilogue, data.astype(np.int64), params)
    module = compile_functions(
        {"f": pointwise.epilogue_func(*shape, epilogue, Isa.PORTABLE, 2, dtype)}, MCPU[Isa.PORTABLE]
    )
    got = call(module["f"], [data, *params], [np.zeros_like(e) for e in expected])
    for e, g in zip(expected, got, strict=True):
        assert np.array_equal(e, g)
