"""The chosen blocking covers every output, fits the registers, and keeps the threads busy."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aqd_deploy.kernels.contract.spec import ConvSpec
from aqd_deploy.kernels.cpu.conv.blocked import blocked_layout
from aqd_deploy.kernels.cpu.conv.blocking import choose_blocking, most_strip_bytes
from aqd_deploy.kernels.cpu.conv.padded_rows import needs_strip
from aqd_deploy.kernels.cpu.isa.select import instruction_set
from aqd_deploy.targets.isa import Isa

specs = st.builds(
    lambda size, channels, kernel, stride: ConvSpec(
        size[0], size[1], channels[0], channels[1], (kernel, kernel), (stride, stride), (kernel // 2,) * 4
    ),
    st.tuples(st.integers(1, 200), st.integers(1, 200)),
    st.tuples(st.integers(1, 600), st.integers(1, 800)),
    st.sampled_from([1, 3, 5]),
    st.integers(1, 2),
)


def choose(spec, isa, threads):
    dots = instruction_set(isa).products[-1]
    layout = blocked_layout(spec, dots)
    return choose_blocking(spec, layout, dots, threads, needs_strip(spec, layout, dots)), layout


@pytest.mark.parametrize("isa", Isa)
@given(specs, st.integers(1, 8))
def test_blocking_covers_the_output_and_fits_the_registers(isa, spec, threads):
    plan, layout = choose(spec, isa, threads)
    dots = instruction_set(isa).products[-1]
    assert plan.strips * plan.rows >= spec.out_height > (plan.strips - 1) * plan.rows
    assert plan.tile[0] <= plan.rows <= spec.out_height
    assert plan.tile[1] <= spec.out_width
    assert plan.blocks <= layout.blocks
    items = -(-layout.blocks // plan.blocks)
    assert (plan.parts - 1) * -(-items // plan.parts) < items, "a part without work"
    registers = dots.width * plan.blocks * (plan.pixels + 1) + dots.spare_registers
    assert registers <= dots.registers
    in_rows = (plan.rows - 1) * spec.strides[0] + spec.kernel[0]
    width = spec.width + spec.pads[1] + spec.pads[3]
    sample_bytes = 2 if isa is Isa.AVX2 else 1
    assert plan.rows == 1 or in_rows * width * spec.in_channels * sample_bytes <= most_strip_bytes(dots.core)


@pytest.mark.parametrize("size", [40, 20, 10, 5, 3])
@pytest.mark.parametrize("threads", [2, 4])
def test_every_pyramid_level_has_work_for_all_threads(size, threads):
    spec = ConvSpec(size, size, 256, 256, (3, 3), pads=(1, 1, 1, 1))
    plan, _ = choose(spec, Isa.VNNI, threads)
    assert plan.strips * plan.parts >= threads
    assert (plan.strips * plan.parts) % threads == 0
