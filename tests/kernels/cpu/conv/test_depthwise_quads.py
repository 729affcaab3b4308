"""Depthwise convolutions of bytes by products of four taps, on every set that has them."""

import numpy as np
import pytest
from kernel_reference import MCPU, assembly, call, compile_functions, convolve, host_runs

from aqd_deploy.kernels.contract.spec import ConvSpec, Epilogue
from aqd_deploy.kernels.cpu.conv.depthwise import quad_product
from aqd_deploy.kernels.cpu.conv.families import conv2d
from aqd_deploy.targets.isa import Isa

ISAS = [isa for isa in (Isa.AMX, Isa.VNNI, Isa.AVXVNNI) if host_runs(isa)]

# (kernel, strides, pads, dilations, channels, height, width)
CASES = [
    ((3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 32, 9, 17),
    ((3, 3), (2, 2), (0, 0, 1, 1), (1, 1), 37, 10, 12),
    ((5, 5), (1, 2), (2, 2, 2, 2), (1, 1), 16, 7, 9),
    ((4, 1), (1, 1), (0, 0, 0, 0), (1, 1), 16, 6, 3),
    ((9, 2), (1, 1), (4, 1, 4, 0), (1, 1), 20, 11, 5),
    ((3, 3), (1, 1), (2, 2, 2, 2), (2, 2), 5, 8, 8),
]


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.value)
def test_sums_of_bytes_are_exact(isa, signed):
    functions, expected = {}, {}
    generator = np.random.default_rng(signed)
    for i, (kernel, strides, pads, dilations, channels, height, width) in enumerate(CASES):
        values = tuple(generator.integers(-128 if signed else 0, 128, channels).tolist())
        spec = ConvSpec(
            height, width, channels, channels, kernel, strides, pads, dilations, channels,
            pad_values=values, input_signed=signed,
        )  # fmt: skip
        assert quad_product(spec, isa) is not None
        data = generator.integers(0, 256, (height, width, channels)).astype(np.uint8)
        data[: height // 2] = data[: height // 2] // 128 * 255
        data = data.view(np.int8) if signed else data
        weights = generator.choice([-128, -127, 3, 127], (channels, 1, *kernel)).astype(np.int8)
        chosen = conv2d(spec, Epilogue(), isa, 2)
        functions[f"f{i}"] = chosen.prim_func
        expected[f"f{i}"] = [data, chosen.layout.pack(weights)], convolve(spec, data, weights)
    module = compile_functions(functions, MCPU[isa])
    assert "vpdpbusd" in assembly(module)
    for name, (inputs, sums) in expected.items():
        (got,) = call(module[name], inputs, [np.zeros(sums.shape, np.int32)])
        np.testing.assert_array_equal(got, sums)


def test_where_bytes_are_not_multiplied_so():
    spec = ConvSpec(8, 8, 16, 16, (3, 3), group=16)
    assert quad_product(spec, Isa.AVX2) is None
    assert quad_product(spec, Isa.DOTPROD) is None
    assert quad_product(ConvSpec(8, 8, 16, 16, (3, 3), group=16, odd=True), Isa.VNNI) is None
