"""What the sweeps of kernels on AMX draw from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from aqd_deploy.kernels.contract.spec import ConvSpec
from aqd_deploy.kernels.cpu.amx.conv import weight_codes
from aqd_deploy.kernels.cpu.amx.plan import Plan

# Of the weights: any int8, 7 bits, 4 bits with and without a zero, 2 bits.
GRIDS = [
    {},
    {"weight_range": (-64, 63)},
    {"weight_range": (-7, 7)},
    {"weight_range": (-15, 15), "weight_step": 2},
    {"weight_range": (-3, 3), "weight_step": 2},
]


@st.composite
def specs(draw, kernel, strides, channels, stacked=True) -> ConvSpec:
    """Convolutions with one of each; `stacked`: also of several maps."""
    kernel = draw(st.sampled_from(kernel))
    dilations = draw(st.sampled_from([(1, 1), (1, 1), (1, 1), (2, 1), (1, 2)]))
    spans = [(k - 1) * d for k, d in zip(kernel, dilations, strict=True)]
    sizes = st.tuples(st.integers(1, 12), st.integers(1, 20)).map(
        lambda s: (s[0] + spans[0], s[1] + spans[1])
    )
    several = [st.lists(sizes, min_size=1, max_size=4)] if stacked else []
    levels = tuple(draw(st.one_of(st.just([]), *several)))
    height, width = (sum(h * w for h, w in levels), 1) if levels else draw(sizes)
    signed = draw(st.booleans())
    lo, hi = (-128, 127) if signed else (0, 255)
    in_channels = draw(st.sampled_from(channels))
    padding = draw(st.one_of(st.none(), st.lists(st.integers(lo, hi), min_size=1, max_size=3)))
    return ConvSpec(
        height,
        width,
        in_channels,
        draw(st.sampled_from([1, 4, 7, 16, 17, 36, 40, 64, 80])),
        kernel,
        draw(st.sampled_from(strides)),
        tuple(draw(st.integers(0, 2)) for _ in range(4)),
        dilations,
        odd=draw(st.booleans()),
        pad_values=padding and tuple((padding * in_channels)[:in_channels]),
        input_signed=signed,
        levels=levels,
        **draw(st.sampled_from(GRIDS)),
    )


PLANS = st.builds(
    lambda pixels, channels, shape, first: Plan(pixels, channels, *shape, first),
    st.sampled_from([1, 1, 2, 3, 5]),
    st.sampled_from([1, 1, 2, 3]),
    st.sampled_from([(2, 2), (4, 1)]),
    st.booleans(),
)


@st.composite
def plans_of(draw, spec: ConvSpec) -> Plan:
    """Any plan that a convolution may have."""
    return replace(draw(PLANS), codes=draw(st.sampled_from(weight_codes(spec))))


def operands(spec: ConvSpec, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Random input and weights."""
    rng = np.random.default_rng(seed)
    dtype = np.int8 if spec.input_signed else np.uint8
    limits, shape = np.iinfo(dtype), (spec.height, spec.width, spec.in_channels)
    data = rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)
    shape = (spec.out_channels, spec.in_channels, *spec.kernel)
    lowest, highest = spec.weight_range or (-128, 127)
    steps = rng.integers(0, (highest - lowest) // spec.weight_step + 1, shape)
    return data, (lowest + spec.weight_step * steps).astype(np.int8)
