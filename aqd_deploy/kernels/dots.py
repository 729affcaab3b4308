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
each end of the products' interval lies in [−2¹⁵, 2¹⁵ − 1] (`exact_sums`): 145 steps at 4 bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

from tvm import tirx

from aqd_deploy.kernels import dots_arm
from aqd_deploy.kernels.core import CORE, Core
from aqd_deploy.kernels.emit import Buffer, Expr, Wrapping, broadcast, const, convert, load, vector
from aqd_deploy.kernels.isa import Isa
from aqd_deploy.kernels.spec import ConvSpec

# The largest sample of the dot products that multiply s8 by s8.
SIGNED_HIGH = 127
# Fewer exact steps than this are widened at once: a trip through memory costs more than it saves.
PARTIAL_STEPS = 8


class Product(Enum):
    """VPDPBUSD: four u8·s8 into 32 bits. PMADDUBSW: two u8·s8 into 16 bits, then `vpmaddwd` by ones.
    PMADDWD: two 16-bit products into 32 bits, VPDPWSSD adds them too. SDOT: four s8·s8 into 32 bits. SMMLA:
    eight of them for each of two pixels and two channels, USMMLA the same of u8·s8. SMLAL: one s8·s8 into 16
    bits, pairs of which are added into 32. SMLAL16: one s16·s16 into 32 bits. PLAIN: multiplication and
    addition.
    """

    VPDPBUSD = "vpdpbusd"
    PMADDUBSW = "vpmaddubsw"
    PMADDWD = "vpmaddwd"
    VPDPWSSD = "vpdpwssd"
    SDOT = "sdot"
    SMMLA = "smmla"
    USMMLA = "usmmla"
    SMLAL = "smlal"
    # `smlal` and, on Armv7, `vmlal`: a value is found in the assembly.
    SMLAL16 = "mlal"
    PLAIN = "plain"


@dataclass(frozen=True)
class Dots:
    """`lanes` output channels times `dot` inputs an instruction.

    `sample_dtype` is the type activations have in memory when they are multiplied ("" keeps the type of the
    input), `offset` what may have to be added to activations on the way there (`offset_of`), `registers` how
    many vector registers accumulators, weights and one activation may fill; the sums of a pixel take `width`
    of them, a weight vector `width`·`pixels`. `pixels` share a product: their sums are one accumulator,
    int32 [`sums`] (`start`, `of_pixel`). `partial_steps`: steps that may be accumulated in 16 bits (0:
    accumulate in 32 bits at once); `weight_bytes`: the size of a weight in memory; `sample_steps`:
    neighbouring steps whose samples are loaded as one register, from which each product takes its own. The
    costs choose blocks: `product_cycles` of the vector ports for one dot product, `sample_cycles` for making
    one pixel's part of an operand, and the micro-operations issued for one product, one weight vector and one
    load of samples; `core` tells the caches.
    """

    isa: Isa
    product: Product
    lanes: int
    dot: int
    sample_dtype: str
    product_cycles: float
    offset: int = 0
    registers: int = 32
    spare_registers: int = 1
    width: int = 1
    pixels: int = 1
    product_uops: int = 1
    weight_uops: int = 1
    sample_uops: int = 1
    partial_steps: int = 0
    weight_bytes: int = 1
    sample_steps: int = 1
    sample_cycles: float = 0.0
    core: Core = CORE

    @property
    def reason(self) -> str:
        """Why this product, in a phrase."""
        match self.product:
            case Product.PMADDUBSW:
                steps = self.partial_steps or "single"
                return f"{self.product.value}: sums of {steps} steps are proven to fit 16 bits"
            case Product.PMADDWD:
                return f"{self.product.value}: 8-bit products could saturate"
            case Product.PLAIN:
                return "portable arithmetic"
            case Product.SMLAL:
                if self.partial_steps:
                    return f"smlal: sums of {self.partial_steps} steps are proven to fit 16 bits"
                return "smull, widened at once: sums could leave 16 bits"
            case _:
                return self.product.value

    @property
    def vector_bytes(self) -> int:
        """Bytes of the weights that one step of one block takes."""
        return self.lanes * self.dot * self.weight_bytes

    @property
    def sample_bytes(self) -> int:
        """The size of a sample in memory."""
        return 2 if self.sample_dtype == "int16" else 1

    @property
    def word(self) -> str:
        """The integer type that `dot` samples fill."""
        return f"int{8 * self.sample_bytes * self.dot}"

    @property
    def sums(self) -> int:
        """Values of an accumulator."""
        return self.lanes * self.pixels

    def start(self, values: Expr) -> Expr:
        """An accumulator whose pixels all have the sums `values`, int32 [lanes]."""
        return values if self.pixels == 1 else dots_arm.both_pixels(values)

    def of_pixel(self, acc: Expr, pixel: int) -> Expr:
        """The sums of one pixel of an accumulator, int32 [lanes]."""
        return acc if self.pixels == 1 else dots_arm.of_pixel(acc, pixel)

    @property
    def partial_lanes(self) -> int:
        """16-bit sums of one dot product."""
        return 2 * self.lanes

    def most_pixels(self, blocks: int) -> int:
        """Pixels of a register tile with `blocks` vectors of weights. One sample is held at a time; of
        `sample_steps` steps those of all pixels.
        """
        free = (self.registers - self.spare_registers) // self.width - blocks * self.pixels
        return free // (blocks + 1 if self.sample_steps > 1 else blocks)

    def offset_of(self, spec: ConvSpec) -> int:
        """What is added to the activations of `spec`: 0 for those that are samples as they are."""
        return self.offset if spec.input_signed or self.sample_dtype == "int8" else 0

    def converts(self, spec: ConvSpec) -> bool:
        """Whether activations have other bits as samples than in memory."""
        if self.sample_dtype == "int8":
            return self.offset_of(spec) != 0
        return self.sample_dtype not in ("", "int8" if spec.input_signed else "uint8")

    def sample(self, samples: Buffer, index: Expr) -> Expr:
        """`dot` neighbouring activations, in every lane."""
        if self.product is Product.PLAIN:
            return broadcast(convert(load(samples, index), "int32"), self.lanes)
        word = tirx.reinterpret(self.word, load(samples, index, self.dot))
        return self.from_words(broadcast(word, self.lanes))

    def sample_words(self, samples: Buffer, index: Expr, steps: int = 0) -> Expr:
        """The words of `steps` steps, by default of `sample_steps`."""
        steps = steps or self.sample_steps
        return tirx.reinterpret(vector(self.word, steps), load(samples, index, steps * self.dot))

    def sample_of(self, words: Expr, step: int) -> Expr:
        """As `sample`: the word of one of the steps of `sample_words`."""
        return self.from_words(tirx.Shuffle([words], [const(step)] * self.lanes))

    def samples_of(self, words: Sequence[Expr], step: int) -> Expr:
        """As `sample_of`, for the words of `pixels` pixels."""
        return self.sample_of(words[0], step) if self.pixels == 1 else dots_arm.pair(words, step)

    def from_words(self, words: Expr) -> Expr:
        """`word` [lanes] that hold `dot` samples each, as the operand of `accumulate` and `partial`."""
        dtype = "int16" if self.sample_dtype == "int16" else "int8"
        return tirx.reinterpret(vector(dtype, self.lanes * self.dot), words)

    def weight(self, weights: Buffer, index: Expr) -> Expr:
        """The weights of one step: `lanes` channels with `dot` inputs each; `weights` holds bytes."""
        value = load(weights, index, self.vector_bytes)
        if self.weight_bytes == 2:
            return tirx.reinterpret(vector("int16", self.lanes * self.dot), value)
        match self.product:
            case Product.PMADDWD:
                return convert(value, "int16", self.vector_bytes)
            case Product.PLAIN:
                return convert(value, "int32", self.lanes)
            case _:
                return value

    def accumulate(self, acc: Expr, sample: Expr, weight: Expr) -> Expr:
        """acc + the dot products, int32 in each lane; sums of 16-bit weights may wrap."""
        match self.product:
            case Product.VPDPBUSD:
                name = f"llvm.x86.avx512.vpdpbusd.{self.lanes * 32}"
                return tirx.call_llvm_pure_intrin(vector("int32", self.lanes), name, acc, sample, weight)
            case Product.VPDPWSSD:
                name = f"llvm.x86.avx512.vpdpwssd.{self.lanes * 32}"
                return tirx.call_llvm_pure_intrin(vector("int32", self.lanes), name, acc, sample, weight)
            case Product.PMADDUBSW:
                return self.widen(acc, self._pairs(sample, weight))
            case Product.PMADDWD:
                product = self._pmaddwd(sample, weight)
                if self.weight_bytes == 1:
                    return acc + product
                return (Wrapping(acc, self.lanes) + Wrapping(product, self.lanes)).value
            case Product.SDOT:
                return dots_arm.sdot(acc, sample, weight)
            case Product.SMMLA | Product.USMMLA:
                return dots_arm.matrix(self.product.value, acc, sample, weight)
            case Product.SMLAL:
                return self.widen(acc, dots_arm.products(sample, weight))
            case Product.SMLAL16:
                return dots_arm.accumulate_words(acc, sample, weight)
            case Product.PLAIN:
                return acc + sample * weight

    def partial(self, acc: Expr, sample: Expr, weight: Expr) -> Expr:
        """acc + the products or the sums of pairs, int16 [2·lanes]; exact for `partial_steps` steps from 0
        on.
        """
        if self.product is Product.SMLAL:
            return acc + dots_arm.products(sample, weight)
        return acc + self._pairs(sample, weight)

    def widen(self, acc: Expr, partial: Expr) -> Expr:
        """int32 acc + the pairs of the 16-bit sums."""
        if self.product is Product.SMLAL:
            return dots_arm.add_pairs(acc, partial, self.isa)
        return acc + self._pmaddwd(partial, const(1, "int16", 2 * self.lanes))

    def _pairs(self, sample: Expr, weight: Expr) -> Expr:
        name = "llvm.x86.avx2.pmadd.ub.sw" if self.lanes == 8 else "llvm.x86.avx512.pmaddubs.w.512"
        return tirx.call_llvm_pure_intrin(vector("int16", 2 * self.lanes), name, sample, weight)

    def _pmaddwd(self, a: Expr, b: Expr) -> Expr:
        name = "llvm.x86.avx2.pmadd.wd" if self.lanes == 8 else "llvm.x86.avx512.pmaddw.d.512"
        return tirx.call_llvm_pure_intrin(vector("int32", self.lanes), name, a, b)


def exact_steps(sample_high: int, weight_range: tuple[int, int]) -> int:
    """n of the module's inequality for samples in [0, sample_high]: 0 where one step may already saturate."""
    low = -2 * sample_high * min(0, weight_range[0])
    high = 2 * sample_high * max(0, weight_range[1])
    # A bound for weights that are all zero is never needed: one step more than any reduction has.
    limits = [limit // size for limit, size in ((2**15, low), (2**15 - 1, high)) if size]
    return min(limits, default=2**15)


def exact_sums(samples: tuple[int, int], weights: tuple[int, int]) -> int:
    """Products of samples and weights in these closed intervals whose sum cannot leave int16, however many of
    them are added in whatever order.
    """
    products = [s * w for s in samples for w in weights]
    low, high = -min(0, *products), max(0, *products)
    return min((limit // size for limit, size in ((2**15, low), (2**15 - 1, high)) if size), default=2**15)


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
    if steps < PARTIAL_STEPS:
        return dots
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
    sample_steps=8,
)
# Exact for operands of any range.
DOTS = {
    Isa.VNNI: _VNNI,
    Isa.AVX512: replace(_AVX2, isa=Isa.AVX512, lanes=16, registers=32, product_cycles=1.0),
    Isa.AVXVNNI: replace(_VNNI, isa=Isa.AVXVNNI, lanes=8, registers=16),
    Isa.AVX2: _AVX2,
    Isa.I8MM: replace(_SDOT, isa=Isa.I8MM),
    Isa.DOTPROD: _SDOT,
    Isa.NEON: _SMLAL,
    Isa.NEON32: replace(_SMLAL, isa=Isa.NEON32, registers=16),
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
