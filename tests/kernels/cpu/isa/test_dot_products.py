"""Which dot product the ranges allow: the bound is safe and tight, and the code has the instruction meant."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_reference import MCPU, assembly, call, compile_functions, convolve, host_runs

from aqd_deploy.kernels.contract.spec import ConvSpec, Epilogue
from aqd_deploy.kernels.cpu.conv.families import conv2d
from aqd_deploy.kernels.cpu.isa.exactness import exact_steps, sample_range
from aqd_deploy.kernels.cpu.isa.select import dots_for
from aqd_deploy.targets.isa import Isa

INT16 = np.iinfo(np.int16)
BITS4 = {"input_range": (0, 15), "weight_range": (-15, 15)}
BITS8 = {"input_range": (0, 255), "weight_range": (-128, 127)}


def extremes(steps: int, high: int, weights: tuple[int, int]) -> list[int]:
    """The sums of 2·steps products with every weight at one end and every sample at 0 or `high`."""
    return [2 * steps * high * w for w in weights] + [0]


@given(st.integers(1, 255), st.integers(-128, 127), st.integers(0, 255))
def test_the_bound_is_safe_and_tight(high, low, span):
    weights = (low, min(127, low + span))
    steps = exact_steps(high, weights)
    assert all(INT16.min <= s <= INT16.max for s in extremes(steps, high, weights))
    if any(weights):
        assert not all(INT16.min <= s <= INT16.max for s in extremes(steps + 1, high, weights))


@pytest.mark.parametrize(
    ("high", "weights", "steps"),
    [(15, (-15, 15), 72), (3, (-3, 3), 1820), (255, (-15, 15), 4), (255, (-64, 64), 1), (255, (-65, 64), 0)],
)
def test_steps_of_the_usual_widths(high, weights, steps):
    assert exact_steps(high, weights) == steps


def test_padding_and_signed_grids_are_part_of_the_range():
    spec = ConvSpec(8, 8, 16, 16, (3, 3), **BITS4)
    assert dots_for(spec, Isa.AVX2).partial_steps == 72
    padded = ConvSpec(8, 8, 16, 16, (3, 3), pads=(1, 1, 1, 1), pad_values=(200,) * 16, **BITS4)
    assert sample_range(padded) == (0, 200)
    assert dots_for(padded, Isa.AVX2).partial_steps == 0
    signed = ConvSpec(8, 8, 16, 16, (1, 1), input_signed=True, input_range=(-8, 7), weight_range=(-15, 15))
    dots = dots_for(signed, Isa.AVX512)
    assert (dots.offset, dots.partial_steps) == (8, 72)
    assert dots_for(ConvSpec(8, 8, 16, 16, (1, 1)), Isa.AVX2).name == "vpmaddwd"


@pytest.mark.parametrize("isa", [isa for isa in (Isa.AVX2, Isa.AVX512) if host_runs(isa)])
@pytest.mark.parametrize("group", [1, 2])
def test_one_step_more_than_fits_16_bits_is_widened_before(isa, group):
    # Eight steps of 15·(−128) fit; the ninth would wrap. Both kernels of a reduction in parts.
    ranges = {"input_range": (0, 15), "weight_range": (-128, 127)}
    spec = ConvSpec(3, 3, group * 36, group * 4, (1, 1), group=group, **ranges)
    assert dots_for(spec, isa).partial_steps == 8
    kernel = conv2d(spec, Epilogue(), isa, 1)
    assert kernel.choice.family == ("blocked" if group == 1 else "grouped")
    module = compile_functions({"conv": kernel.prim_func}, MCPU[isa])
    data = np.full((3, 3, spec.in_channels), 15, np.uint8)
    for weight in (-128, 127):
        weights = np.full((spec.out_channels, 36, 1, 1), weight, np.int8)
        packed = kernel.layout.pack(weights)
        (got,) = call(module["conv"], [data, packed], [np.zeros((3, 3, spec.out_channels), np.int32)])
        assert np.array_equal(got, convolve(spec, data, weights))


# Instructions that must be there, and some of those that must not; LLVM writes VEX forms as {vex}.
INSTRUCTIONS = [
    (Isa.VNNI, "cascadelake", BITS4, ["vpdpbusd", "zmm"], ["pmaddubsw", "tileload", "tdpb"]),
    (Isa.VNNI, "cascadelake", BITS8, ["vpdpbusd", "zmm"], ["pmaddubsw", "tileload", "tdpb"]),
    (Isa.AVX512, "skylake-avx512", BITS4, ["vpmaddubsw", "zmm"], ["vpdpbusd"]),
    (Isa.AVX512, "skylake-avx512", BITS8, ["vpmaddwd", "zmm"], ["vpdpbusd", "pmaddubsw"]),
    (Isa.AVXVNNI, "alderlake", BITS4, ["{vex}", "vpdpbusd", "ymm"], ["pmaddubsw", "zmm"]),
    (Isa.AVXVNNI, "alderlake", BITS8, ["{vex}", "vpdpbusd", "ymm"], ["pmaddubsw", "zmm"]),
    (Isa.AVX2, "haswell", BITS4, ["vpmaddubsw", "ymm"], ["vpdpbusd", "zmm"]),
    (Isa.AVX2, "haswell", BITS8, ["vpmaddwd", "ymm"], ["vpdpbusd", "pmaddubsw", "zmm"]),
    (Isa.PORTABLE, "x86-64-v2", BITS4, [], ["vpdpbusd", "pmaddubsw", "ymm", "zmm"]),
    (Isa.PORTABLE, "x86-64-v2", BITS8, [], ["vpdpbusd", "pmaddubsw", "ymm", "zmm"]),
]


@pytest.mark.parametrize(("isa", "mcpu", "ranges", "present", "absent"), INSTRUCTIONS)
def test_the_code_has_the_instructions_meant(isa, mcpu, ranges, present, absent):
    specs = {
        "dense": ConvSpec(6, 6, 32, 32, (3, 3), pads=(1, 1, 1, 1), **ranges),
        "groups": ConvSpec(6, 6, 32, 32, (3, 3), pads=(1, 1, 1, 1), group=8, **ranges),
    }
    for spec in specs.values():
        kernel = conv2d(spec, Epilogue(), isa, 1)
        text = assembly(compile_functions({"conv": kernel.prim_func}, mcpu))
        assert [word for word in present if word not in text] == []
        assert [word for word in absent if word in text] == []


def test_tiles_multiply_what_fills_them():
    """A convolution in groups stays with vectors."""
    dense = ConvSpec(16, 16, 64, 64, (3, 3), pads=(1, 1, 1, 1), **BITS4)
    text = {}
    for name, spec in (("dense", dense), ("groups", replace(dense, group=8))):
        kernel = conv2d(spec, Epilogue(), Isa.AMX, 1)
        text[name] = assembly(compile_functions({"conv": kernel.prim_func}, "sapphirerapids"))
    assert "tdpbusd" in text["dense"] and "tileloadd" in text["dense"]
    assert "vpdpbusd" in text["groups"] and "tdpb" not in text["groups"]
