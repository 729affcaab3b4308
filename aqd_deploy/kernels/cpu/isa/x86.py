"""The instruction sets of x86-64: 256 bits with 16 registers, or 512 bits with 32."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from tvm import tirx

from aqd_deploy.integer.types import is_signed
from aqd_deploy.kernels.contract.caches import Core
from aqd_deploy.kernels.contract.spec import ConvSpec
from aqd_deploy.kernels.cpu.emit import Buffer, Expr, Wrapping, const, convert, vector
from aqd_deploy.kernels.cpu.isa.dot_product import DotProduct, NarrowSums
from aqd_deploy.kernels.cpu.isa.exactness import PARTIAL_STEPS, exact_steps, sample_range, weight_range
from aqd_deploy.kernels.cpu.isa.instruction_set import ByteTable, InstructionSet, Packing
from aqd_deploy.targets.isa import Isa

# LLVM's intrinsics, by lanes of 32 bits.
_PMADDUBSW = {8: "llvm.x86.avx2.pmadd.ub.sw", 16: "llvm.x86.avx512.pmaddubs.w.512"}
_PMADDWD = {8: "llvm.x86.avx2.pmadd.wd", 16: "llvm.x86.avx512.pmaddw.d.512"}


class Vpdpbusd(DotProduct):
    """Four u8·s8 added into 32 bits, never saturating. int8 activations become unsigned by adding 128."""

    name = mnemonics = "vpdpbusd"
    dot = 4
    sample_dtype = "uint8"
    sums_bytes = True

    def fitted(self, spec: ConvSpec, core: Core) -> DotProduct:
        return replace(self, core=core, offset=128 if spec.input_signed else 0)

    def accumulate(self, acc: Expr, sample: Expr, weight: Expr) -> Expr:
        name = f"llvm.x86.avx512.vpdpbusd.{self.lanes * 32}"
        return tirx.call_llvm_pure_intrin(vector("int32", self.lanes), name, acc, sample, weight)


class Vpdpwssd(DotProduct):
    """Two s16·s16 added into 32 bits, which may wrap."""

    name = mnemonics = "vpdpwssd"
    dot = 2
    sample_dtype = "int16"
    weight_bytes = 2

    def accumulate(self, acc: Expr, sample: Expr, weight: Expr) -> Expr:
        name = f"llvm.x86.avx512.vpdpwssd.{self.lanes * 32}"
        return tirx.call_llvm_pure_intrin(vector("int32", self.lanes), name, acc, sample, weight)


class Pmaddubsw(NarrowSums):
    """Two u8·s8 added into 16 bits, then `vpmaddwd` by ones adds two of these into 32. int8 activations
    become unsigned by subtracting the least value they can have, so their range does not grow.
    """

    name = mnemonics = "vpmaddubsw"
    dot = 4
    sample_dtype = "uint8"

    def fitted(self, spec: ConvSpec, core: Core) -> DotProduct | None:
        lo, hi = sample_range(spec)
        offset = -lo if spec.input_signed and lo < 0 else 0
        low, high = weight_range(spec)
        # The ones that sum the windows of odd weights are weights too.
        steps = exact_steps(hi + offset, (low, max(high, 1)))
        fitted = replace(self, core=core, offset=offset)
        if steps >= PARTIAL_STEPS:
            return replace(fitted, partial_steps=steps)
        cycles, uops = self.product_cycles * 1.5, self.product_uops + 1
        return replace(fitted, product_cycles=cycles, product_uops=uops) if steps else None

    @property
    def reason(self) -> str:
        return f"{self.name}: sums of {self.partial_steps or 'single'} steps are proven to fit 16 bits"

    @property
    def partial(self) -> tuple[str, int]:
        return "int16", 2 * self.lanes

    def accumulate(self, acc: Expr, sample: Expr, weight: Expr) -> Expr:
        return self.widen(acc, self._pairs(sample, weight))

    def add_partial(self, acc: Expr, sample: Expr, weight: Expr) -> Expr:
        return acc + self._pairs(sample, weight)

    def widen(self, acc: Expr, partial: Expr) -> Expr:
        return acc + _pmaddwd(self.lanes, partial, const(1, "int16", 2 * self.lanes))

    def _pairs(self, sample: Expr, weight: Expr) -> Expr:
        sums = vector("int16", 2 * self.lanes)
        return tirx.call_llvm_pure_intrin(sums, _PMADDUBSW[self.lanes], sample, weight)


class Pmaddwd(DotProduct):
    """Two products of 16 bits added into 32, of bytes that are widened: exact where 8-bit products could
    saturate.
    """

    name = mnemonics = "vpmaddwd"
    dot = 2
    sample_dtype = "int16"

    @property
    def reason(self) -> str:
        return f"{self.name}: 8-bit products could saturate"

    def weight(self, weights: Buffer, index: Expr) -> Expr:
        return convert(super().weight(weights, index), "int16", self.vector_bytes)

    def accumulate(self, acc: Expr, sample: Expr, weight: Expr) -> Expr:
        return acc + _pmaddwd(self.lanes, sample, weight)


class PmaddwdWords(DotProduct):
    """`Pmaddwd` of weights that have 16 bits in memory; sums may wrap."""

    name = mnemonics = "vpmaddwd"
    dot = 2
    sample_dtype = "int16"
    weight_bytes = 2

    def accumulate(self, acc: Expr, sample: Expr, weight: Expr) -> Expr:
        product = _pmaddwd(self.lanes, sample, weight)
        return (Wrapping(acc, self.lanes) + Wrapping(product, self.lanes)).value


def _pmaddwd(lanes: int, a: Expr, b: Expr) -> Expr:
    return tirx.call_llvm_pure_intrin(vector("int32", lanes), _PMADDWD[lanes], a, b)


class Vpermi2b(ByteTable):
    """Each of two instructions looks up half a table in two registers of 512 bits (AVX512-VBMI)."""

    words = 16
    lanes = (16,)

    def looked_up(self, table: Sequence[Expr], index: Expr, dtype: str) -> Expr:
        registers = [tirx.reinterpret("int8x64", words) for words in table]
        low, high = (
            tirx.reinterpret("int32x16", _vpermi2b(*pair, tirx.reinterpret("int8x64", index)))
            for pair in zip(registers[::2], registers[1::2], strict=True)
        )
        # What the upper bytes of a lane find is cut off.
        return _code(_half(index, low, high), dtype)


class Vpermi2d(ByteTable):
    """Each of two instructions finds words of half a table in two registers of 512 bits, by five bits of the
    index; its lowest two say by how much the byte meant is shifted to the end (AVX-512).
    """

    words = 16
    lanes = (16,)

    def looked_up(self, table: Sequence[Expr], index: Expr, dtype: str) -> Expr:
        place = tirx.shift_right(index, const(2, "int32", 16))
        bits = tirx.bitwise_and(tirx.shift_left(index, const(3, "int32", 16)), const(24, "int32", 16))
        low, high = (
            tirx.call_llvm_pure_intrin("int32x16", "llvm.x86.avx512.vpermi2var.d.512", first, place, second)
            for first, second in zip(table[::2], table[1::2], strict=True)
        )
        return _code(tirx.shift_right(_half(index, low, high), bits), dtype)


class Vpshufb(ByteTable):
    """Each of eight instructions looks up sixteen indices in two pieces of sixteen bytes (AVX2)."""

    words = 8
    lanes = (16,)

    def looked_up(self, table: Sequence[Expr], index: Expr, dtype: str) -> Expr:
        codes = convert(index, "int8", 16)
        twice = tirx.Shuffle([codes, codes], [const(lane) for lane in range(32)])
        found: Expr = const(0, "int8", 32)
        for first, piece in zip(range(-128, 128, 32), [*table[4:], *table[:4]], strict=True):
            starts = [const(first + half, "int8", 16) for half in (0, 16)]
            place = tirx.bitwise_xor(twice, tirx.Shuffle(starts, [const(lane) for lane in range(32)]))
            # Of an index that belongs to a piece the lower four bits are left; all others get the eighth, for
            # which the instruction finds 0.
            name, limit = "llvm.uadd.sat.v32i8", const(112, "int8", 32)
            place = tirx.call_llvm_pure_intrin("int8x32", name, place, limit)
            name, piece = "llvm.x86.avx2.pshuf.b", tirx.reinterpret("int8x32", piece)
            found = tirx.bitwise_or(found, tirx.call_llvm_pure_intrin("int8x32", name, piece, place))
        halves = [tirx.Shuffle([found], [const(half + lane) for lane in range(16)]) for half in (0, 16)]
        return convert(tirx.reinterpret(f"{dtype}x16", tirx.bitwise_or(*halves)), "int32", 16)


class Vpack(Packing):
    """Words of two vectors saturate to 16 bits, then to bytes; each instruction keeps to the halves of its
    operands, which a permutation of words puts in order (AVX2).
    """

    lanes = 16

    def packed(self, codes: Expr, dtype: str) -> Expr:
        low, high = (tirx.Shuffle([codes], [const(half + lane) for lane in range(8)]) for half in (0, 8))
        words = tirx.call_llvm_pure_intrin("int16x16", "llvm.x86.avx2.packssdw", low, high)
        name = "llvm.x86.avx2.packsswb" if is_signed(dtype) else "llvm.x86.avx2.packuswb"
        bytes_ = tirx.call_llvm_pure_intrin("int8x32", name, words, words)
        order = [const(word) for word in (0, 4, 1, 5)]
        return tirx.reinterpret(f"{dtype}x16", tirx.Shuffle([tirx.reinterpret("int32x8", bytes_)], order))


def _half(index: Expr, low: Expr, high: Expr) -> Expr:
    """`high` where the eighth bit of an index is set, the upper half of a table, else `low`."""
    bit = tirx.bitwise_and(index, const(128, "int32", 16))
    return tirx.Select(tirx.EQ(bit, const(0, "int32", 16)), low, high)


def _code(found: Expr, dtype: str) -> Expr:
    """The code of `dtype` in the lowest byte of each lane."""
    by = const(24, "int32", 16)
    if is_signed(dtype):
        return tirx.shift_right(tirx.shift_left(found, by), by)
    return tirx.bitwise_and(found, const(255, "int32", 16))


def vpgatherdd(address: Expr, index: Expr) -> Expr:
    """Sixteen words by one instruction (AVX-512)."""
    every = tirx.Broadcast(tirx.IntImm("bool", 1), 16)
    name = "llvm.x86.avx512.mask.gather.dpi.512"
    none = const(0, "int32", 16)
    return tirx.call_llvm_pure_intrin("int32x16", name, none, address, index, every, const(4))


def _vpermi2b(first: Expr, second: Expr, index: Expr) -> Expr:
    name = "llvm.x86.avx512.vpermi2var.qi.512"
    return tirx.call_llvm_pure_intrin("int8x64", name, first, index, second)


# Bytes of a register that one product takes; the register's letter tells its size.
_PRODUCT = re.compile(r"\t(?:\{vex\}\s+)?v?(pdpbusd|pmaddubsw|pmaddwd|pmullw|pmulld)\s.*%([xyz])mm\d+\s*$")
_PRODUCT_BYTES = {"pdpbusd": 1, "pmaddubsw": 1, "pmaddwd": 2, "pmullw": 2, "pmulld": 4}
_REGISTER_BYTES = {"x": 16, "y": 32, "z": 64}


def products_of(line: str) -> int:
    """Multiply-accumulates of one instruction of assembly, 0 where it does not multiply vectors."""
    found = _PRODUCT.match(line)
    return _REGISTER_BYTES[found[2]] // _PRODUCT_BYTES[found[1]] if found else 0


# By lanes of a vector; 512 bits have an instruction that narrows one vector.
_TABLES: dict[int, ByteTable] = {8: Vpshufb(), 16: Vpermi2d()}
_PACKINGS: dict[int, Packing | None] = {8: Vpack(), 16: None}


def with_vnni(isa: Isa, lanes: int, registers: int, source: str) -> InstructionSet:
    """An entry with VNNI on vectors of `lanes` int32."""
    bytes_ = Vpdpbusd(isa, lanes, 0.5, registers)
    words = Vpdpwssd(isa, lanes, 0.5, registers)
    return InstructionSet(
        isa,
        source,
        products=(bytes_,),
        products_of=products_of,
        depthwise_lanes=lanes,
        wide_products_by_shuffle=False,
        winograd_bytes=bytes_,
        winograd_words=words,
        word_pairs=words,
        byte_table=_TABLES[lanes],
        packing=_PACKINGS[lanes],
    )


def _without_vnni(isa: Isa, lanes: int, registers: int, cycles: float, source: str) -> InstructionSet:
    # A product is a multiplication and an addition; bytes are widened when they are loaded.
    general = Pmaddwd(isa, lanes, cycles, registers, spare_registers=2, product_uops=2, weight_uops=2)
    narrow = Pmaddubsw(isa, lanes, cycles, registers, spare_registers=2, product_uops=2)
    words = PmaddwdWords(isa, lanes, cycles, registers, spare_registers=2, product_uops=2)
    return InstructionSet(
        isa,
        source,
        products=(narrow, general),
        products_of=products_of,
        depthwise_lanes=lanes,
        wide_products_by_shuffle=False,
        winograd_words=words,
        word_pairs=words,
        byte_table=_TABLES[lanes],
        packing=_PACKINGS[lanes],
    )


ENTRIES = (
    with_vnni(Isa.VNNI, 16, 32, "uops.info: two 512-bit VPDPBUSD a cycle on parts with two FMA units"),
    with_vnni(Isa.AVXVNNI, 8, 16, "uops.info: two 256-bit VPDPBUSD a cycle on performance cores"),
    _without_vnni(
        Isa.AVX512,
        16,
        32,
        1.0,
        "an estimate: a product is a multiplication and an addition, on two ports of 512 bits",
    ),
    _without_vnni(
        Isa.AVX2,
        8,
        16,
        0.67,
        "an estimate: a product is a multiplication and an addition, on three ports of 256 bits",
    ),
)
