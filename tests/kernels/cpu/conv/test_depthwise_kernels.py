"""Depthwise convolutions, by products of four taps on every set that has them: the borders, which are copied,
and the tiles in the middle, which are not.
"""

from collections.abc import Iterator

import numpy as np
import pytest
from arm_runner import MACHINES, Batch, compile_arm, need_machine
from kernel_reference import MCPU, assembly, call, compile_functions, convolve, host_runs

from aqd_deploy.kernels.contract.kernel import Kernel
from aqd_deploy.kernels.contract.spec import ConvSpec, Epilogue
from aqd_deploy.kernels.cpu.conv.depthwise import quad_product
from aqd_deploy.kernels.cpu.conv.families import conv2d
from aqd_deploy.targets.isa import Isa

# Instruction sets with the turn of `kernels`; AMX does it as VNNI, I8MM as DOTPROD.
TURNS = [(Isa.VNNI, 0), (Isa.VNNI, 1), (Isa.AVXVNNI, 0), (Isa.AVX2, 1), (Isa.PORTABLE, 0)]
QUADS = {Isa.AMX, Isa.VNNI, Isa.AVXVNNI, Isa.I8MM, Isa.DOTPROD}

# (kernel, strides, pads, dilations, channels, height, width)
CASES = [
    ((3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 32, 9, 17),
    ((3, 3), (2, 2), (0, 0, 1, 1), (1, 1), 37, 10, 12),
    ((5, 5), (1, 2), (2, 2, 2, 2), (1, 1), 16, 7, 9),
    ((4, 1), (1, 1), (0, 0, 0, 0), (1, 1), 16, 6, 3),
    ((9, 2), (1, 1), (4, 1, 4, 0), (1, 1), 20, 11, 5),
    ((3, 3), (1, 1), (2, 2, 2, 2), (2, 2), 5, 8, 8),
    # Tiles in the middle read the input where it lies, but those that would read behind it.
    ((3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 32, 26, 33),
    ((3, 3), (2, 2), (0, 0, 1, 1), (1, 1), 37, 52, 66),
    ((5, 5), (1, 1), (2, 2, 2, 2), (1, 1), 19, 27, 40),
    ((3, 3), (1, 1), (0, 0, 0, 0), (1, 1), 24, 10, 18),
    ((3, 3), (1, 1), (0, 0, 0, 0), (1, 1), 21, 10, 18),
]


def kernels(isa: Isa, turn: int) -> Iterator[tuple[Kernel, list[np.ndarray], np.ndarray]]:
    """Each case with operands at the ends of their ranges, signed or unsigned in `turn`: kernel, inputs,
    sums.
    """
    generator = np.random.default_rng(turn)
    for number, (kernel, strides, pads, dilations, channels, height, width) in enumerate(CASES):
        signed = number % 2 == turn
        values = tuple(generator.integers(-128 if signed else 0, 128, channels).tolist())
        spec = ConvSpec(
            height, width, channels, channels, kernel, strides, pads, dilations, channels,
            pad_values=values, input_signed=signed,
        )  # fmt: skip
        assert (quad_product(spec, isa) is not None) == (isa in QUADS)
        data = generator.integers(0, 256, (height, width, channels)).astype(np.uint8)
        data[: height // 2] = data[: height // 2] // 128 * 255
        data = data.view(np.int8) if signed else data
        weights = generator.choice([-128, -127, 3, 127], (channels, 1, *kernel)).astype(np.int8)
        chosen = conv2d(spec, Epilogue(), isa, 2)
        sums = convolve(spec, data, weights).astype(np.int32)
        yield chosen, [data, chosen.layout.pack(weights)], sums


@pytest.mark.parametrize(("isa", "turn"), TURNS)
def test_sums_are_exact(isa, turn):
    if not host_runs(isa):
        pytest.skip("this CPU lacks the instructions")
    found = list(kernels(isa, turn))
    module = compile_functions({f"f{i}": case[0].prim_func for i, case in enumerate(found)}, MCPU[isa])
    assert ("vpdpbusd" in assembly(module)) == (isa in QUADS)
    for i, (_, inputs, sums) in enumerate(found):
        (got,) = call(module[f"f{i}"], inputs, [np.zeros_like(sums)])
        np.testing.assert_array_equal(got, sums, err_msg=str(CASES[i]))


@pytest.mark.needs_qemu
@pytest.mark.needs_cross
@pytest.mark.parametrize("isa", [Isa.DOTPROD, Isa.NEON, Isa.NEON32])
def test_sums_are_exact_on_arm(isa, tmp_path):
    need_machine(isa)
    batch = Batch(isa)
    for label, (kernel, inputs, sums) in zip(CASES, kernels(isa, 0), strict=True):
        batch.add(label, kernel.prim_func, inputs, [sums])
    batch.check(tmp_path)


@pytest.mark.parametrize("isa", MACHINES)
def test_instructions_on_arm(isa):
    kernel, *_ = next(kernels(isa, 0))
    assert ("sdot" in compile_arm({"f": kernel.prim_func}, isa).inspect_source("s")) == (isa in QUADS)


def test_odd_weights_are_no_bytes():
    assert quad_product(ConvSpec(8, 8, 16, 16, (3, 3), group=16, odd=True), Isa.VNNI) is None
