"""The dot product of each instruction set, as the blocked convolution uses it."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx

from aqd_deploy.kernels.emit import Buffer, Expr, broadcast, convert, load
from aqd_deploy.kernels.isa import Isa


@dataclass(frozen=True)
class Dots:
    """`lanes` output channels times `dot` inputs an instruction.

    `sample_dtype` is the type activations have in memory when they are multiplied ("" keeps the type of the
    input), `offset` what is added to int8 activations on the way there, `registers` how many vector registers
    accumulators, weights and one activation may fill; an accumulator or a weight vector takes `width` of
    them. The costs choose blocks: `product_cycles` of the multipliers for one dot product, and the
    micro-operations issued for one product, one weight vector and one sample.
    """

    isa: Isa
    lanes: int
    dot: int
    sample_dtype: str
    offset: int
    registers: int
    spare_registers: int
    width: int
    product_cycles: float
    product_uops: int
    weight_uops: int
    sample_uops: int

    def sample(self, samples: Buffer, index: Expr) -> Expr:
        """`dot` neighbouring activations, in every lane."""
        match self.isa:
            case Isa.VNNI:
                word = tirx.reinterpret("int32", load(samples, index, 4))
                return tirx.reinterpret("int8x64", broadcast(word, 16))
            case Isa.AVX2:
                word = tirx.reinterpret("int32", load(samples, index, 2))
                return tirx.reinterpret("int16x16", broadcast(word, 8))
            case Isa.PORTABLE:
                return broadcast(convert(load(samples, index), "int32"), self.lanes)

    def weight(self, weights: Buffer, index: Expr) -> Expr:
        """The weights of one step: `lanes` channels with `dot` inputs each."""
        match self.isa:
            case Isa.VNNI:
                return load(weights, index, 64)
            case Isa.AVX2:
                return convert(load(weights, index, 16), "int16", 16)
            case Isa.PORTABLE:
                return convert(load(weights, index, self.lanes), "int32", self.lanes)

    def accumulate(self, acc: Expr, sample: Expr, weight: Expr) -> Expr:
        """acc + the dot products, int32 in each lane."""
        match self.isa:
            case Isa.VNNI:
                return tirx.call_llvm_pure_intrin(
                    "int32x16", "llvm.x86.avx512.vpdpbusd.512", acc, sample, weight
                )
            case Isa.AVX2:
                return acc + tirx.call_llvm_pure_intrin("int32x8", "llvm.x86.avx2.pmadd.wd", sample, weight)
            case Isa.PORTABLE:
                return acc + sample * weight


DOTS = {
    Isa.VNNI: Dots(
        Isa.VNNI,
        lanes=16,
        dot=4,
        sample_dtype="uint8",
        offset=128,
        registers=32,
        spare_registers=1,
        width=1,
        product_cycles=0.5,
        product_uops=1,
        weight_uops=1,
        sample_uops=1,
    ),
    Isa.AVX2: Dots(
        Isa.AVX2,
        lanes=8,
        dot=2,
        sample_dtype="int16",
        offset=0,
        registers=16,
        spare_registers=2,
        width=1,
        product_cycles=0.67,
        product_uops=2,
        weight_uops=2,
        sample_uops=1,
    ),
    # Sixteen registers of 128 bits: a vector of eight lanes fills two.
    Isa.PORTABLE: Dots(
        Isa.PORTABLE,
        lanes=8,
        dot=1,
        sample_dtype="",
        offset=0,
        registers=16,
        spare_registers=2,
        width=2,
        product_cycles=2.0,
        product_uops=6,
        weight_uops=4,
        sample_uops=3,
    ),
}
