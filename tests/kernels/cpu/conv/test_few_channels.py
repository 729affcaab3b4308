"""The kernel for few output channels returns the reference, on one map, on stacks and as network outputs."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_reference import MCPU, call, compile_functions, convolve, host_runs

from aqd_deploy.kernels.contract.choice import Choice
from aqd_deploy.kernels.contract.spec import ConvSpec, Epilogue, StoreBorder
from aqd_deploy.kernels.cpu.conv.families import conv2d, conv_choices
from aqd_deploy.targets.isa import Isa

pytestmark = pytest.mark.skipif(not host_runs(Isa.VNNI), reason="this CPU has no AVX-512 VNNI")
FEW = Choice("few")


@st.composite
def specs(draw) -> ConvSpec:
    kernel = (draw(st.integers(1, 3)), draw(st.integers(1, 4)))
    dilations = (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
    in_channels = draw(st.sampled_from([64, 128]))
    padded = draw(st.booleans())
    return ConvSpec(
        height=draw(st.integers(1, 10)) + (kernel[0] - 1) * dilations[0],
        width=draw(st.integers(1, 10)) + (kernel[1] - 1) * dilations[1],
        in_channels=in_channels,
        out_channels=draw(st.integers(1, 8)),
        kernel=kernel,
        strides=(draw(st.integers(1, 2)), draw(st.integers(1, 2))),
        pads=tuple(draw(st.integers(0, 2)) for _ in range(4)),
        dilations=dilations,
        odd=draw(st.booleans()),
        pad_values=tuple(range(in_channels)) if padded else None,
        input_range=(0, 255),
    )


@settings(max_examples=12)
@given(st.lists(specs(), min_size=4, max_size=4), st.integers(1, 3), st.sampled_from(["any", "ends"]))
def test_any_geometry(cases, threads, fill):
    rng = np.random.default_rng(len(cases) + threads)
    functions, calls = {}, []
    for i, spec in enumerate(cases):
        shape = (spec.height, spec.width, spec.in_channels)
        data = rng.integers(0, 256, shape) if fill == "any" else np.full(shape, 255)
        weights = rng.integers(-128, 128, (spec.out_channels, spec.in_channels, *spec.kernel))
        if fill == "ends":
            weights = np.where(weights > 0, 127, -128)
        kernel = conv2d(spec, Epilogue(), Isa.VNNI, threads, FEW)
        functions[f"f{i}"] = kernel.prim_func
        packed = kernel.layout.pack(weights.astype(np.int8))
        calls.append((data.astype(np.uint8), packed, convolve(spec, data, weights)))
    module = compile_functions(functions, MCPU[Isa.VNNI])
    for i, (data, packed, expected) in enumerate(calls):
        out = np.full(expected.shape, -77, np.int32)
        np.testing.assert_array_equal(call(module[f"f{i}"], [data, packed], [out])[0], expected)


def test_levels_as_network_outputs():
    levels = ((9, 7), (3, 3), (1, 1))
    spec = ConvSpec(73, 1, 64, 4, (3, 3), pads=(1, 1, 1, 1), odd=True, levels=levels, input_range=(0, 255))
    rng = np.random.default_rng(0)
    data = rng.integers(0, 256, (73, 1, 64)).astype(np.uint8)
    weights = rng.integers(-128, 128, (4, 64, 3, 3)).astype(np.int8)
    kernel = conv2d(spec, Epilogue((), (StoreBorder(),)), Isa.VNNI, 2, FEW)
    module = compile_functions({"f": kernel.prim_func}, MCPU[Isa.VNNI])
    outputs = [np.full((1, 4, h, w), -77, np.int32) for h, w in levels]
    results = call(module["f"], [data, kernel.layout.pack(weights)], outputs)
    expected = convolve(spec, data, weights)
    for m, got in zip(spec.maps, results, strict=True):
        pixels = expected[m.out_start : m.out_start + m.out_height * m.out_width, 0]
        want = pixels.reshape(1, m.out_height, m.out_width, 4).transpose(0, 3, 1, 2)
        np.testing.assert_array_equal(got, want)


def test_it_is_the_default_for_boxes_and_nothing_for_signed_or_many():
    boxes = ConvSpec(40, 40, 256, 4, (3, 3), pads=(1, 1, 1, 1), odd=True, input_range=(0, 255))
    assert conv_choices(boxes, Isa.VNNI, 1)[0] == FEW
    for other in (replace(boxes, out_channels=9), replace(boxes, input_signed=True, input_range=(-128, 127))):
        assert FEW not in conv_choices(other, Isa.VNNI, 1)
    assert FEW not in conv_choices(boxes, Isa.AVX2, 1)
