"""Every convolution kernel returns the integers of the numpy reference, on every instruction set."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_reference import (
    MCPU,
    assembly,
    call,
    compile_functions,
    convolve,
    epilogue_params,
    finish,
    host_runs,
)

from aqd_deploy.errors import ShapeError
from aqd_deploy.kernels.contract.spec import (
    AddBias,
    ConvSpec,
    Epilogue,
    MultiplyShift,
    Relu,
    SkipAdd,
    StoreRequantize,
    StoreStream,
    StoreThreshold,
)
from aqd_deploy.kernels.cpu.conv.blocked import blocked_layout, conv_blocked
from aqd_deploy.kernels.cpu.conv.blocking import Blocking
from aqd_deploy.kernels.cpu.conv.families import conv2d
from aqd_deploy.kernels.cpu.isa.select import tile_dots
from aqd_deploy.targets.isa import Isa

# One a vector width and the portable one: the sweep of all families goes over the others.
ISAS = [isa for isa in (Isa.VNNI, Isa.AVX2, Isa.PORTABLE) if host_runs(isa)]


@st.composite
def specs(draw) -> ConvSpec:
    group = draw(st.sampled_from([1, 1, 1, 2, 5]))
    kernel = (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    dilations = (draw(st.sampled_from([1, 1, 2])), draw(st.sampled_from([1, 1, 2])))
    pads = tuple(draw(st.integers(0, 3)) for _ in range(4))
    in_channels = group * draw(st.sampled_from([1, 2, 3, 4, 7, 8, 20]))
    signed = draw(st.booleans())
    spec = ConvSpec(
        height=draw(st.integers(1, 12)) + (kernel[0] - 1) * dilations[0],
        width=draw(st.integers(1, 14)) + (kernel[1] - 1) * dilations[1],
        in_channels=in_channels,
        out_channels=group * draw(st.sampled_from([1, 2, 5, 8, 16, 17, 32, 40])),
        kernel=kernel,
        strides=(draw(st.integers(1, 3)), draw(st.integers(1, 3))),
        pads=pads,
        dilations=dilations,
        group=group,
        odd=draw(st.booleans()),
        input_signed=signed,
    )
    lo, hi = (-128, 127) if signed else (0, 255)
    kind = draw(st.sampled_from(["zero", "one value", "per channel"]))
    if kind == "one value":
        return replace(spec, pad_values=(draw(st.integers(lo, hi)),) * in_channels)
    if kind == "per channel":
        return replace(spec, pad_values=tuple(draw(st.integers(lo, hi)) for _ in range(in_channels)))
    return spec


steps = st.one_of(
    st.just(AddBias()),
    st.just(Relu()),
    st.just(MultiplyShift()),
    st.builds(SkipAdd, st.just(1), st.booleans(), st.booleans()),
)
stores = st.one_of(
    st.just(StoreStream()),
    st.sampled_from([(0, 255, "uint8"), (0, 15, "uint8"), (-8, 7, "int8"), (-128, 127, "int8")]).map(
        lambda t: StoreRequantize(*t)
    ),
    st.builds(StoreThreshold, st.sampled_from([0, 2]), st.integers(1, 7)),
)
epilogues = st.builds(
    Epilogue,
    st.lists(steps, max_size=3).map(tuple),
    st.lists(stores, min_size=1, max_size=3).map(tuple),
)


def operands(spec: ConvSpec, rng: np.random.Generator, extreme: bool) -> tuple[np.ndarray, np.ndarray]:
    """Data and weights over their whole range, or only its two ends."""
    dtype, lo, hi = (np.int8, -128, 127) if spec.input_signed else (np.uint8, 0, 255)
    shape = (spec.height, spec.width, spec.in_channels)
    weight_shape = (spec.out_channels, spec.in_channels // spec.group, *spec.kernel)
    if extreme:
        return rng.choice(np.array([lo, hi], dtype), shape), rng.choice(
            np.array([-128, 127], np.int8), weight_shape
        )
    return (
        rng.integers(lo, hi + 1, shape).astype(dtype),
        rng.integers(-128, 128, weight_shape).astype(np.int8),
    )


def check(
    spec: ConvSpec, epilogue: Epilogue, isa: Isa, threads: int, seed: int = 0, extreme: bool = False
) -> None:
    """Compiles one kernel and compares all its outputs, tolerance zero."""
    rng = np.random.default_rng(seed)
    data, weights = operands(spec, rng, extreme)
    reduction = weights[0].size
    shape = (spec.out_height, spec.out_width, spec.out_channels)
    params = epilogue_params(rng, epilogue, shape, reduction * 255 * 255)
    expected = finish(epilogue, convolve(spec, data, weights), params)
    kernel = conv2d(spec, epilogue, isa, threads)
    module = compile_functions({"conv": kernel.prim_func}, MCPU[isa])
    packed = kernel.layout.pack(weights)
    assert packed.shape == kernel.layout.shape
    got = call(module["conv"], [data, packed, *params], [np.full_like(e, 99) for e in expected])
    for index, (e, g) in enumerate(zip(expected, got, strict=True)):
        assert np.count_nonzero(e != g) == 0, f"output {index} of {kernel.name} on {isa}"


@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=12)
@given(specs(), epilogues, st.integers(1, 2), st.integers(0, 2**32 - 1), st.booleans())
def test_any_geometry(isa, spec, epilogue, threads, seed, extreme):
    check(spec, epilogue, isa, threads, seed, extreme)


PAPER = Epilogue(
    (AddBias(), SkipAdd(self_identity=True), Relu()),
    (StoreStream(), StoreRequantize(0, 15), StoreThreshold(0, 3)),
)
NETWORK = {
    "stem": ConvSpec(29, 31, 3, 24, (7, 7), (2, 2), (3, 3, 3, 3), odd=True, pad_values=(104, 116, 124)),
    "3x3": ConvSpec(13, 10, 64, 48, (3, 3), pads=(1, 1, 1, 1)),
    "downsample": ConvSpec(14, 14, 32, 64, (1, 1), strides=(2, 2)),
    "head": ConvSpec(5, 5, 64, 36, (3, 3), pads=(1, 1, 1, 1), odd=True),
    "signed": ConvSpec(6, 6, 20, 16, (3, 3), pads=(1, 1, 1, 1), input_signed=True),
    "depthwise": ConvSpec(9, 9, 40, 40, (3, 3), pads=(1, 1, 1, 1), group=40),
    "depthwise odd": ConvSpec(7, 8, 19, 19, (3, 2), (2, 1), (1, 0, 0, 1), group=19, odd=True),
    "grouped": ConvSpec(9, 11, 28, 64, (3, 3), pads=(1, 1, 1, 1), group=4),
    "grouped signed": ConvSpec(5, 5, 6, 32, (3, 3), pads=(1, 1, 1, 1), group=2, input_signed=True),
    "one pixel": ConvSpec(1, 1, 64, 80, (1, 1)),
}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", NETWORK)
def test_layers_of_the_networks(isa, name):
    check(NETWORK[name], PAPER, isa, threads=2)


@pytest.mark.parametrize("isa", ISAS)
def test_the_longest_reduction_at_full_range_does_not_saturate(isa):
    # All products of one sign: a 16-bit saturating sum anywhere would show.
    spec = ConvSpec(3, 3, 512, 32, (3, 3), pads=(1, 1, 1, 1))
    kernel = conv2d(spec, Epilogue(), isa, 1)
    module = compile_functions({"conv": kernel.prim_func}, MCPU[isa])
    for weight in (-128, 127):
        data = np.full((3, 3, 512), 255, np.uint8)
        weights = np.full((32, 512, 3, 3), weight, np.int8)
        (got,) = call(module["conv"], [data, kernel.layout.pack(weights)], [np.zeros((3, 3, 32), np.int32)])
        assert np.array_equal(got, convolve(spec, data, weights))


@pytest.mark.parametrize("pixels_first", [False, True])
@pytest.mark.parametrize(
    ("rows", "parts", "tile", "blocks"), [(4, 2, (3, 2), 2), (11, 3, (1, 9), 2), (1, 1, (1, 4), 5)]
)
def test_the_blocking_changes_no_integer(rows, parts, tile, blocks, pixels_first):
    # Five blocks of channels on the widest vectors; neither rows nor columns nor blocks divide evenly.
    spec = ConvSpec(11, 9, 12, 70, (3, 3), pads=(1, 1, 1, 1), odd=True)
    dots = tile_dots(spec, Isa.VNNI if Isa.VNNI in ISAS else Isa.PORTABLE)
    plan = Blocking(rows, -(-spec.out_height // rows), parts, tile, blocks, pixels_first)
    rng = np.random.default_rng(3)
    data, weights = operands(spec, rng, extreme=False)
    function = conv_blocked(spec, Epilogue(), dots, 2, plan)
    module = compile_functions({"conv": function}, MCPU[dots.isa])
    packed = blocked_layout(spec, dots).pack(weights)
    (got,) = call(module["conv"], [data, packed], [np.zeros((11, 9, 70), np.int32)])
    assert np.array_equal(got, convolve(spec, data, weights))


@pytest.mark.parametrize("isa", ISAS)
def test_upsampled_skip(isa):
    epilogue = Epilogue((AddBias(), SkipAdd(upsample=2, other_identity=True)), (StoreStream(),))
    check(ConvSpec(8, 6, 16, 24, (1, 1)), epilogue, isa, threads=2)


def test_multiplier_products_beyond_32_bits():
    # 2^30 · (2^31 − 1) needs 61 bits; a shift of 62 leaves the sign.
    spec = ConvSpec(1, 1, 1, 16, (1, 1))
    kernel = conv2d(spec, Epilogue((AddBias(), MultiplyShift()), (StoreStream(),)), Isa.PORTABLE, 1)
    module = compile_functions({"conv": kernel.prim_func}, MCPU[Isa.PORTABLE])
    bias = np.full(16, -(2**30), np.int32)
    c = np.full(16, 2**31 - 1, np.int32)
    d = np.arange(31, 63, 2).astype(np.int32)
    b = np.full(16, 2**61 - 1, np.int64)
    data = np.zeros((1, 1, 1), np.uint8)
    packed = kernel.layout.pack(np.ones((16, 1, 1, 1), np.int8))
    (got,) = call(module["conv"], [data, packed, bias, c, b, d], [np.zeros((1, 1, 16), np.int32)])
    exact = [((-(2**30)) * (2**31 - 1) + 2**61 - 1) >> int(s) for s in d]
    assert got.reshape(-1).tolist() == exact


def test_instructions():
    spec = ConvSpec(10, 10, 32, 32, (3, 3), pads=(1, 1, 1, 1))
    text = {}
    for isa in MCPU:
        kernel = conv2d(spec, PAPER, isa, 1)
        text[isa] = assembly(compile_functions({"conv": kernel.prim_func}, MCPU[isa]))
    assert "vpdpbusd" in text[Isa.VNNI]
    assert "zmm" in text[Isa.VNNI]
    assert "vpmaddwd" in text[Isa.AVX2]
    assert "zmm" not in text[Isa.AVX2]
    assert "ymm" not in text[Isa.PORTABLE]
    assert all("pmaddubsw" not in t for t in text.values())


def test_impossible_geometry_is_refused():
    with pytest.raises(ShapeError, match="no output"):
        conv2d(ConvSpec(2, 2, 4, 4, (3, 3)), Epilogue(), Isa.PORTABLE, 1)
    with pytest.raises(ShapeError, match="groups"):
        conv2d(ConvSpec(4, 4, 4, 6, (1, 1), group=4), Epilogue(), Isa.PORTABLE, 1)
