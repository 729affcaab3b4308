"""The products of the instruction sets, and how the convolutions emit them.

`dots` says which of them is exact for given operands.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from tvm import tirx

from aqd_deploy.kernels.contract.caches import CORE, Core
from aqd_deploy.kernels.contract.spec import ConvSpec
from aqd_deploy.kernels.cpu.emit import Buffer, Expr, Wrapping, broadcast, const, convert, load, vector
from aqd_deploy.kernels.cpu.isa import arm
from aqd_deploy.targets.isa import Isa


class Product(Enum):
    """VPDPBUSD: four u8·s8 into 32 bits. PMADDUBSW: two u8·s8 into 16 bits, then `vpmaddwd` by ones.
    PMADDWD: two 16-bit products into 32 bits, VPDPWSSD adds them too. SDOT: four s8·s8 into 32 bits. SMMLA:
    eight of them for each of two pixels and two channels, USMMLA the same of u8·s8. SMLAL: one s8·s8 into 16
    bits, pairs of which are added into 32. SMLAL16: one s16·s16 into 32 bits. MLA: one s8·s8 into 8 bits,
    fours of which are added into 32. PLAIN: multiplication and addition.
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
    MLA = "mla"
    PLAIN = "plain"


@dataclass(frozen=True)
class Dots:
    """`lanes` output channels times `dot` inputs an instruction.

    `sample_dtype` is the type activations have in memory when they are multiplied ("" keeps the type of the
    input), `offset` what may have to be added to activations on the way there (`offset_of`), `registers` how
    many vector registers accumulators, weights and one activation may fill; the sums of a pixel take `width`
    of them, a weight vector `width`·`pixels`. `pixels` share a product: their sums are one accumulator,
    int32 [`sums`] (`start`, `of_pixel`). `partial_steps`: steps that may be accumulated in fewer bits (0:
    accumulate in 32 bits at once); `fused_steps`: steps whose products are added before they are widened;
    `weight_bytes`: the size of a weight in memory; `sample_steps`: neighbouring steps whose samples are
    loaded as one register, from which each product takes its own.

    The costs choose blocks: `product_cycles` of the vector ports for one dot product, `sample_cycles` for
    making one pixel's part of an operand, `widen_cycles` for adding partial sums to those in memory, and the
    micro-operations issued for one product, one weight vector and one load of samples; `core` tells the
    caches.
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
    fused_steps: int = 1
    widen_cycles: float = 1.5
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
                if self.fused_steps > 1:
                    return f"smull and smlal: sums of {self.fused_steps} steps are proven to fit 16 bits"
                return "smull, widened at once: sums could leave 16 bits"
            case Product.MLA:
                return f"mla: sums of {self.partial_steps} steps are proven to fit 8 bits"
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
        return values if self.pixels == 1 else arm.both_pixels(values)

    def of_pixel(self, acc: Expr, pixel: int) -> Expr:
        """The sums of one pixel of an accumulator, int32 [lanes]."""
        return acc if self.pixels == 1 else arm.of_pixel(acc, pixel)

    @property
    def partial(self) -> tuple[str, int]:
        """Type and number of the partial sums of one dot product."""
        return ("int8", self.lanes * self.dot) if self.product is Product.MLA else ("int16", 2 * self.lanes)

    def most_pixels(self, blocks: int) -> int:
        """Pixels of a register tile with `blocks` vectors of weights. One sample is held at a time; of
        `sample_steps` steps those of all pixels.
        """
        free = (self.registers - self.spare_registers) // self.width
        free -= blocks * self.pixels * self.fused_steps
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
        return self.sample_of(words[0], step) if self.pixels == 1 else arm.pair(words, step)

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
                return arm.sdot(acc, sample, weight)
            case Product.SMMLA | Product.USMMLA:
                return arm.matrix(self.product.value, acc, sample, weight)
            case Product.SMLAL:
                return self.widen(acc, arm.products(sample, weight))
            case Product.SMLAL16:
                return arm.accumulate_words(acc, sample, weight)
            case Product.MLA:
                return self.widen(acc, sample * weight)
            case Product.PLAIN:
                return acc + sample * weight

    def accumulate_fused(self, acc: Expr, samples: Sequence[Expr], weights: Sequence[Expr]) -> Expr:
        """As `accumulate`, for up to `fused_steps` steps."""
        if len(samples) == 1:
            return self.accumulate(acc, samples[0], weights[0])
        products = [arm.products(s, w) for s, w in zip(samples, weights, strict=True)]
        return self.widen(acc, functools.reduce(operator.add, products))

    def add_partial(self, acc: Expr, sample: Expr, weight: Expr) -> Expr:
        """acc + the products or the sums of pairs, of the type `partial`; exact for `partial_steps` steps
        from 0 on.
        """
        match self.product:
            case Product.SMLAL:
                return acc + arm.products(sample, weight)
            case Product.MLA:
                return acc + sample * weight
            case _:
                return acc + self._pairs(sample, weight)

    def widen(self, acc: Expr, partial: Expr) -> Expr:
        """int32 acc + the pairs of the 16-bit sums, or fours of the 8-bit ones."""
        if self.product is Product.MLA:
            partial = arm.pairs(partial, self.isa)
        if self.product in (Product.SMLAL, Product.MLA):
            return arm.add_pairs(acc, partial, self.isa)
        return acc + self._pmaddwd(partial, const(1, "int16", 2 * self.lanes))

    def _pairs(self, sample: Expr, weight: Expr) -> Expr:
        name = "llvm.x86.avx2.pmadd.ub.sw" if self.lanes == 8 else "llvm.x86.avx512.pmaddubs.w.512"
        return tirx.call_llvm_pure_intrin(vector("int16", 2 * self.lanes), name, sample, weight)

    def _pmaddwd(self, a: Expr, b: Expr) -> Expr:
        name = "llvm.x86.avx2.pmadd.wd" if self.lanes == 8 else "llvm.x86.avx512.pmaddw.d.512"
        return tirx.call_llvm_pure_intrin(vector("int32", self.lanes), name, a, b)
