"""Convolutions that store the network's outputs themselves, [1, C, H, W] a map."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_reference import MCPU, call, compile_functions, convolve, epilogue_params, finish, host_runs

from aqd_deploy.kernels.contract.spec import AddBias, ConvSpec, Epilogue, Relu, StoreBorder, StoreStream
from aqd_deploy.kernels.cpu.conv.families import conv2d, conv_choices
from aqd_deploy.kernels.cpu.isa.select import instruction_set
from aqd_deploy.targets.isa import Isa

ISAS = [isa for isa in Isa if host_runs(isa)]
STEPS = (AddBias(), Relu())


def check(
    levels, channels: int, out_channels: int, isa: Isa, threads: int, seed: int = 0, choice=None, family=None
):
    """`levels` of one map is an ordinary convolution; `family` replaces `choice` by its first one."""
    pixels = sum(h * w for h, w in levels)
    shape = (pixels, 1) if len(levels) > 1 else levels[0]
    spec = ConvSpec(*shape, channels, out_channels, (3, 3), pads=(1, 1, 1, 1), odd=True)
    if len(levels) > 1:
        spec = ConvSpec(
            *shape, channels, out_channels, (3, 3), pads=(1, 1, 1, 1), odd=True, levels=tuple(levels)
        )
    spec = replace(spec, winograd=("f4x4_wide",), input_range=(0, 255))
    if family:
        choice = next(c for c in conv_choices(spec, isa, threads) if c.family == family)
    rng = np.random.default_rng(seed)
    data = rng.integers(0, 256, (*shape, channels)).astype(np.uint8)
    weights = rng.integers(-128, 128, (out_channels, channels, 3, 3)).astype(np.int8)
    rows = (spec.out_height, spec.out_width, len(levels) * out_channels)
    params = epilogue_params(rng, Epilogue(STEPS), rows, 1 << 24)
    expected = []
    for level, m in enumerate(spec.maps):
        part = data.reshape(-1, channels)[m.in_start : m.in_start + m.height * m.width]
        value = convolve(spec.alone(m), part.reshape(m.height, m.width, channels), weights)
        mine = [p[level * out_channels : (level + 1) * out_channels] for p in params]
        (stream,) = finish(Epilogue(STEPS, (StoreStream(),)), value, mine)
        expected.append(stream.transpose(2, 0, 1)[None])
    kernel = conv2d(spec, Epilogue(STEPS, (StoreBorder(),)), isa, threads, choice)
    module = compile_functions({"conv": kernel.prim_func}, MCPU[isa])
    arguments = [data, kernel.layout.pack(weights), *params]
    got = call(module["conv"], arguments, [np.full_like(e, 99) for e in expected])
    for e, g in zip(expected, got, strict=True):
        assert np.count_nonzero(e != g) == 0


@pytest.mark.parametrize("isa", ISAS)
def test_heads_of_a_detector(isa):
    check(((16, 16), (9, 7), (3, 3), (1, 1)), 8, 36, isa, threads=2)


@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=5)
@given(
    st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20)), min_size=1, max_size=3),
    st.sampled_from([1, 4, 8, 16, 17, 48]),
    st.integers(1, 3),
    st.integers(0, 2**32 - 1),
)
def test_any_maps(isa, levels, out_channels, threads, seed):
    check(levels, 4, out_channels, isa, threads, seed)


@pytest.mark.parametrize("isa", [isa for isa in ISAS if instruction_set(isa).winograd_words])
@pytest.mark.parametrize("out_channels", [48, 36, 5])
def test_winograd_tiles_turn_their_outputs(isa, out_channels):
    """Maps of whole tiles, maps that tiles are shifted back into, and maps smaller than a tile."""
    for levels, threads in ((((12, 8), (9, 7), (3, 3), (1, 5)), 2), (((13, 11),), 1)):
        check(levels, 32, out_channels, isa, threads, family="winograd")


def test_a_choice_that_goes_pixels_first():
    spec = ConvSpec(13, 11, 4, 40, (3, 3), pads=(1, 1, 1, 1), odd=True)
    choices = [c for c in conv_choices(spec, ISAS[-1], 2) if c.family == "blocked" and c["pixels_first"]]
    check([(13, 11)], 4, 40, ISAS[-1], 2, choice=choices[0])
