"""A convolution over several maps returns what the convolution of each map alone returns."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_reference import MCPU, call, compile_functions, convolve, epilogue_params, finish, host_runs

from aqd_deploy.kernels.contract.spec import (
    AddBias,
    ConvSpec,
    Epilogue,
    MultiplyShift,
    Relu,
    StoreRequantize,
    StoreStream,
    StoreThreshold,
)
from aqd_deploy.kernels.cpu.conv.families import conv2d, conv_choices
from aqd_deploy.targets.isa import Isa

ISAS = [isa for isa in Isa if host_runs(isa)]
PYRAMID = ((40, 40), (20, 20), (10, 10), (5, 5), (3, 3))
ALL = Epilogue(
    (AddBias(), MultiplyShift(), Relu()), (StoreStream(), StoreRequantize(0, 15), StoreThreshold(0, 1))
)


def stacked(levels, channels: int, out_channels: int, kernel: int = 3, **fields) -> ConvSpec:
    pixels = sum(h * w for h, w in levels)
    pads = (kernel // 2,) * 4
    return ConvSpec(pixels, 1, channels, out_channels, (kernel, kernel), pads=pads, levels=levels, **fields)


def level_rows(params: list[np.ndarray], level: int, channels: int) -> list[np.ndarray]:
    """The parameters of one level out of [levels·C]."""
    return [p[..., level * channels : (level + 1) * channels] for p in params]


def expect(spec: ConvSpec, epilogue: Epilogue, data: np.ndarray, weights: np.ndarray, params) -> list:
    """Every map on its own, then stacked."""
    outputs = []
    for level, m in enumerate(spec.maps):
        part = data[m.in_start : m.in_start + m.height * m.width]
        part = part.reshape(m.height, m.width, spec.in_channels)
        value = convolve(spec.alone(m), part, weights)
        mine = level_rows(params, level, spec.out_channels)
        outputs.append([o.reshape(-1, 1, spec.out_channels) for o in finish(epilogue, value, mine)])
    return [np.concatenate(stores) for stores in zip(*outputs, strict=True)]


def check(spec: ConvSpec, epilogue: Epilogue, isa: Isa, threads: int, seed: int = 0, choice=None) -> None:
    rng = np.random.default_rng(seed)
    dtype = np.int8 if spec.input_signed else np.uint8
    lo, hi = spec.input_range or (np.iinfo(dtype).min, np.iinfo(dtype).max)
    wlo, whi = spec.weight_range or (-128, 127)
    data = rng.integers(lo, hi, (spec.height, 1, spec.in_channels), endpoint=True).astype(dtype)
    shape = (spec.out_channels, spec.in_channels, *spec.kernel)
    weights = rng.integers(wlo, whi, shape, endpoint=True).astype(np.int8)
    rows = (spec.out_height, 1, len(spec.levels) * spec.out_channels)
    params = epilogue_params(rng, epilogue, rows, weights[0].size * 255 * 255)
    expected = expect(spec, epilogue, data, weights, params)
    kernel = conv2d(spec, epilogue, isa, threads, choice)
    module = compile_functions({"conv": kernel.prim_func}, MCPU[isa])
    arguments = [data, kernel.layout.pack(weights), *params]
    got = call(module["conv"], arguments, [np.full_like(e, 99) for e in expected])
    for e, g in zip(expected, got, strict=True):
        assert np.count_nonzero(e != g) == 0


@pytest.mark.parametrize(("isa", "threads"), [(ISAS[0], 1), (ISAS[-1], 2), (ISAS[-1], 3)])
def test_the_pyramid_of_a_detector(isa, threads):
    check(stacked(PYRAMID, 16, 36, odd=True), Epilogue((AddBias(),), (StoreThreshold(0, 3),)), isa, threads)


def test_maps_too_large_to_share_a_batch():
    levels = ((70, 64), (64, 66), (3, 7), (1, 1))
    check(stacked(levels, 64, 20), Epilogue((), (StoreRequantize(0, 15),)), ISAS[-1], threads=2)


@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=3)
@given(
    st.lists(st.tuples(st.integers(1, 11), st.integers(1, 11)), min_size=1, max_size=4).map(tuple),
    st.sampled_from([1, 2, 3, 4, 8, 20]),
    st.sampled_from([1, 4, 16, 17, 40, 80]),
    st.sampled_from([1, 3]),
    st.booleans(),
    st.booleans(),
    st.integers(1, 3),
    st.integers(0, 2**32 - 1),
)
def test_any_levels(isa, levels, channels, out_channels, kernel, odd, signed, threads, seed):
    spec = stacked(levels, channels, out_channels, kernel, odd=odd, input_signed=signed)
    check(spec, ALL, isa, threads, seed)


@pytest.mark.parametrize("index", [0, 3, -1])
def test_every_choice_is_for_the_largest_map(index):
    spec = stacked(((3, 3), (9, 8), (2, 5)), 8, 40)
    assert spec.maps[1].in_start == 9
    choice = conv_choices(spec, ISAS[0], 2)[index]
    check(spec, ALL, ISAS[0], 2, choice=choice)


def test_a_map_alone_is_an_ordinary_convolution():
    spec = stacked(PYRAMID, 4, 4)
    assert spec.alone(spec.maps[3]) == replace(spec, height=5, width=5, levels=())
    assert spec.out_height == spec.height == 2134
