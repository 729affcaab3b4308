"""The dot products of each instruction set, as the convolutions use them.

`vpmaddubsw` multiplies u8 by s8 and adds two neighbouring products in 16 bits, *saturating*; a following
16-bit addition wraps. Both are exact where the ranges of the operands prove it: with samples in [0, a] and
weights in [w₀, w₁], any sum of 2n products lies in [2n·min(0, a·w₀), 2n·max(0, a·w₁)], so n steps may be
accumulated in 16 bits before they are widened to 32 as long as this interval lies in [−2¹⁵, 2¹⁵ − 1]
(`exact_steps`). For 4 bits (a = 15, |w| ≤ 15) that is 72 steps, for 2 bits (3, 3) 1820, for 8 bits none.
int8 samples are made unsigned by subtracting the least value they can have, so their range does not grow.

ARM multiplies s8 by s8 (`dots_arm`): samples up to 127 are int8 as they are, others take 128 off. `sdot` adds
four products in 32 bits. `smmla` multiplies two pixels by two channels, eight products each; `usmmla` takes
unsigned samples as they are. `smlal` adds one product to each 16-bit sum, exact for n steps where n times
each end of the products' interval lies in [−2¹⁵, 2¹⁵ − 1] (`exact_sums`): 145 steps at 4 bits. Two steps
are added before they are widened where only that is proven. `mla` adds one product to each 8-bit sum: 14
steps at 2 bits.
"""

from __future__ import annotations

from dataclasses import replace

from aqd_deploy.kernels.contract.caches import CORE, Core
from aqd_deploy.kernels.contract.spec import ConvSpec
from aqd_deploy.kernels.cpu.isa.dot_product import Dots, Product
from aqd_deploy.targets.isa import Isa

__all__ = [
    "BYTES",
    "DOTS",
    "MATRIX",
    "NARROW",
    "WIDE",
    "Dots",
    "Product",
    "byte_dots",
    "dots_for",
    "exact_steps",
    "exact_sums",
    "sample_range",
    "tile_dots",
]

# The largest sample of the dot products that multiply s8 by s8.
SIGNED_HIGH = 127
# Fewer exact steps than this are widened at once: a trip through memory costs more than it saves.
PARTIAL_STEPS = 8


def exact_steps(sample_high: int, weight_range: tuple[int, int]) -> int:
    """n of the module's inequality for samples in [0, sample_high]: 0 where one step may already saturate."""
    low = -2 * sample_high * min(0, weight_range[0])
    high = 2 * sample_high * max(0, weight_range[1])
    # A bound for weights that are all zero is never needed: one step more than any reduction has.
    limits = [limit // size for limit, size in ((2**15, low), (2**15 - 1, high)) if size]
    return min(limits, default=2**15)


def exact_sums(samples: tuple[int, int], weights: tuple[int, int], bits: int = 16) -> int:
    """Products of samples and weights in these closed intervals whose sum cannot leave signed integers of
    `bits` bits, however many of them are added in whatever order.
    """
    products = [s * w for s in samples for w in weights]
    low, high = -min(0, *products), max(0, *products)
    most = 2 ** (bits - 1)
    return min((limit // size for limit, size in ((most, low), (most - 1, high)) if size), default=most)


def sample_range(spec: ConvSpec) -> tuple[int, int]:
    """The closed interval that holds every activation and every value of the padding."""
    lo, hi = spec.input_range or ((-128, 127) if spec.input_signed else (0, 255))
    padding = spec.pad_values or ((0,) if any(spec.pads) else ())
    return min((lo, *padding)), max((hi, *padding))


def dots_for(spec: ConvSpec, isa: Isa) -> Dots:
    """The dot product for the operands of `spec`: that of `DOTS`, or `vpmaddubsw` where it is exact."""
    if DOTS[isa].sample_dtype == "int8":
        return _signed_dots(spec, DOTS[isa])
    narrow = NARROW.get(isa)
    if narrow is None:
        return DOTS[isa]
    lo, hi = sample_range(spec)
    offset = -lo if spec.input_signed and lo < 0 else 0
    weights = spec.weight_range or (-128, 127)
    # The ones that sum the windows of odd weights are weights too.
    steps = exact_steps(hi + offset, (weights[0], max(weights[1], 1)))
    if steps >= PARTIAL_STEPS:
        return replace(narrow, offset=offset, partial_steps=steps)
    if steps:
        cycles, uops = narrow.product_cycles * 1.5, narrow.product_uops + 1
        return replace(narrow, offset=offset, product_cycles=cycles, product_uops=uops)
    return DOTS[isa]


def tile_dots(spec: ConvSpec, isa: Isa) -> Dots:
    """As `dots_for`, for register tiles, whose products may take several pixels."""
    matrix = MATRIX.get(isa)
    if matrix is None:
        return dots_for(spec, isa)
    # Signed samples fit as they are, and so do unsigned ones: nothing is ever shifted.
    if sample_range(spec)[1] > SIGNED_HIGH:
        return replace(matrix, product=Product.USMMLA, sample_dtype="uint8")
    return matrix


def byte_dots(spec: ConvSpec, isa: Isa, core: Core = CORE) -> Dots | None:
    """The product that adds in 8 bits, None where it is not exact for enough steps."""
    dots = BYTES.get(isa)
    lo, hi = sample_range(spec)
    if dots is None or hi > SIGNED_HIGH:
        return None
    steps = exact_sums((lo, hi), spec.weight_range or (-128, 127), bits=8)
    if steps < PARTIAL_STEPS:
        return None
    cycles = dots.product_cycles / 2 if core.in_order else dots.product_cycles
    return replace(dots, partial_steps=steps, product_cycles=cycles, core=core)


def _signed_dots(spec: ConvSpec, dots: Dots) -> Dots:
    """`dots` with what its samples must be shifted by, and the steps that are exact in 16 bits."""
    lo, hi = sample_range(spec)
    if hi > SIGNED_HIGH:
        dots = replace(dots, offset=-SIGNED_HIGH - 1)
        lo, hi = lo + dots.offset, hi + dots.offset
    if dots.product is not Product.SMLAL:
        return dots
    weights = spec.weight_range or (-128, 127)
    # The ones that sum the windows of odd weights and of shifted samples are weights, those of the latter
    # samples too.
    steps = exact_sums((min(lo, 0), max(hi, 1)), (min(weights[0], 0), max(weights[1], 1)))
    if steps < 2:
        return dots
    if steps < PARTIAL_STEPS:
        # Two products and one widening; what they need on the way must not push out accumulators.
        cycles, spare = dots.product_cycles * 0.75, dots.spare_registers + dots.registers // 8
        return replace(dots, fused_steps=2, product_cycles=cycles, spare_registers=spare)
    return replace(dots, partial_steps=steps, product_cycles=dots.product_cycles / 2, product_uops=1)


_VNNI = Dots(
    Isa.VNNI, Product.VPDPBUSD, lanes=16, dot=4, sample_dtype="uint8", product_cycles=0.5, offset=128
)
_AVX2 = Dots(
    Isa.AVX2,
    Product.PMADDWD,
    lanes=8,
    dot=2,
    sample_dtype="int16",
    product_cycles=0.67,
    registers=16,
    spare_registers=2,
    product_uops=2,
    weight_uops=2,
)
_SDOT = Dots(
    Isa.DOTPROD, Product.SDOT, lanes=4, dot=4, sample_dtype="int8", product_cycles=0.5, sample_steps=4
)
# In-order and narrow cores: a product and its widening are two cycles of the one multiplier.
_SMLAL = replace(
    _SDOT,
    isa=Isa.NEON,
    product=Product.SMLAL,
    dot=2,
    spare_registers=3,
    product_cycles=2.0,
    product_uops=2,
    # Every step takes its word out of the register.
    sample_uops=9,
    sample_cycles=0.5,
    sample_steps=8,
)
# Exact for operands of any range.
DOTS = {
    Isa.AMX: replace(_VNNI, isa=Isa.AMX),
    Isa.VNNI: _VNNI,
    Isa.AVX512: replace(_AVX2, isa=Isa.AVX512, lanes=16, registers=32, product_cycles=1.0),
    Isa.AVXVNNI: replace(_VNNI, isa=Isa.AVXVNNI, lanes=8, registers=16),
    Isa.AVX2: _AVX2,
    Isa.I8MM: replace(_SDOT, isa=Isa.I8MM),
    Isa.DOTPROD: _SDOT,
    Isa.NEON: _SMLAL,
    Isa.NEON32: replace(_SMLAL, isa=Isa.NEON32, registers=16, sample_cycles=0.0),
    # Sixteen registers of 128 bits: a vector of eight lanes fills two.
    Isa.PORTABLE: Dots(
        Isa.PORTABLE,
        Product.PLAIN,
        lanes=8,
        dot=1,
        sample_dtype="",
        product_cycles=2.0,
        registers=16,
        spare_registers=2,
        width=2,
        product_uops=6,
        weight_uops=4,
        sample_uops=3,
    ),
}
# Of two pixels at once, in register tiles.
MATRIX = {
    # Two steps of two pixels are two loads and two shuffles.
    Isa.I8MM: replace(
        _SDOT,
        isa=Isa.I8MM,
        product=Product.SMMLA,
        dot=8,
        pixels=2,
        weight_uops=2,
        sample_uops=2,
        sample_steps=2,
        sample_cycles=0.25,
    )
}
# In 8 bits. Where the multiplier is wide, sixteen bytes take as long as two times eight.
BYTES = {
    isa: replace(DOTS[isa], product=Product.MLA, dot=4, product_uops=1, sample_steps=4, widen_cycles=4.5)
    for isa in (Isa.NEON, Isa.NEON32)
}
# Exact where `exact_steps` says so.
NARROW = {
    isa: replace(
        DOTS[isa], product=Product.PMADDUBSW, dot=4, sample_dtype="uint8", weight_uops=1, spare_registers=2
    )
    for isa in (Isa.AVX512, Isa.AVX2)
}
# Of 16-bit samples and 16-bit weights in memory; sums wrap.
WIDE = {
    isa: replace(
        DOTS[isa],
        product=product,
        dot=2,
        sample_dtype="int16",
        offset=0,
        weight_uops=1,
        weight_bytes=2,
    )
    for isa, product in (
        (Isa.AMX, Product.VPDPWSSD),
        (Isa.VNNI, Product.VPDPWSSD),
        (Isa.AVX512, Product.PMADDWD),
        (Isa.AVXVNNI, Product.VPDPWSSD),
        (Isa.AVX2, Product.PMADDWD),
    )
} | {
    # Where there is `sdot`, four times as many products of 8 bits are as fast.
    isa: replace(
        DOTS[isa],
        product=Product.SMLAL16,
        dot=1,
        sample_dtype="int16",
        product_cycles=1.0,
        product_uops=1,
        weight_bytes=2,
        sample_uops=1,
        sample_steps=8,
    )
    for isa in (Isa.NEON, Isa.NEON32)
}
