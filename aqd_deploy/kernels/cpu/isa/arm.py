"""The instruction sets of ARM, 128 bits of sums a product.

`sdot` and the products of matrices have intrinsics; a widening multiplication written as such becomes
`smull`/`smlal` (Armv7: `vmull`, `vmlal`), with one lane of a vector as its operand where that is what is
multiplied. All but `usmmla` multiply s8 by s8: samples up to 127 are int8 as they are, others take 128 off.
"""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from tvm import tirx

from aqd_deploy.kernels.contract.caches import Core
from aqd_deploy.kernels.contract.spec import ConvSpec
from aqd_deploy.kernels.cpu.emit import Expr, Wrapping, const, convert, vector
from aqd_deploy.kernels.cpu.isa.dot_product import DotProduct, NarrowSums
from aqd_deploy.kernels.cpu.isa.exactness import PARTIAL_STEPS, exact_sums, sample_range, weight_range
from aqd_deploy.kernels.cpu.isa.instruction_set import ByteTable, InstructionSet
from aqd_deploy.targets.isa import Isa

LANES = 4
# Of two registers: as many as one register holds of int16.
DEPTHWISE_LANES = 8
# The largest sample of the dot products that multiply s8 by s8.
SIGNED_HIGH = 127


def _offset(spec: ConvSpec) -> int:
    """What makes activations signed bytes."""
    return -SIGNED_HIGH - 1 if sample_range(spec)[1] > SIGNED_HIGH else 0


class Sdot(DotProduct):
    """Four s8·s8 added into 32 bits. Only as the last operand may the samples be one lane of a vector."""

    name = mnemonics = "sdot"
    dot = 4
    sample_dtype = "int8"
    sums_bytes = True

    def fitted(self, spec: ConvSpec, core: Core) -> DotProduct:
        return replace(self, core=core, offset=_offset(spec))

    def accumulate(self, acc: Expr, sample: Expr, weight: Expr) -> Expr:
        name = "llvm.aarch64.neon.sdot.v4i32.v16i8"
        return tirx.call_llvm_pure_intrin("int32x4", name, acc, weight, sample)


class Smmla(DotProduct):
    """Eight s8·s8 of each of two pixels with each of four channels: two instructions, each of which holds the
    matrix of two pixels times two channels. Samples are never shifted: where they do not fit, there is
    `Usmmla`.
    """

    name = mnemonics = "smmla"
    dot = 8
    sample_dtype = "int8"
    pixels = 2

    def fitted(self, spec: ConvSpec, core: Core) -> DotProduct | None:
        return replace(self, core=core) if sample_range(spec)[1] <= SIGNED_HIGH else None

    def start(self, values: Expr) -> Expr:
        return _shuffled([values, values], (0, 1, 0, 1, 2, 3, 2, 3))

    def of_pixel(self, acc: Expr, pixel: int) -> Expr:
        first = 2 * pixel
        return _shuffled([acc], (first, first + 1, first + LANES, first + LANES + 1))

    def samples_of(self, words: Sequence[Expr], step: int) -> Expr:
        pair = _shuffled(words, (step, words[0].ty.dtype.lanes + step))
        return tirx.reinterpret("int8x16", pair)

    def accumulate(self, acc: Expr, sample: Expr, weight: Expr) -> Expr:
        halves = [
            tirx.call_llvm_pure_intrin(
                "int32x4",
                f"llvm.aarch64.neon.{self.name}.v4i32.v16i8",
                _shuffled([acc], range(LANES * half, LANES * (half + 1))),
                sample,
                _shuffled([weight], range(16 * half, 16 * (half + 1))),
            )
            for half in (0, 1)
        ]
        return _shuffled(halves, range(2 * LANES))

    def peak_step(self, acc: Expr, weight: Expr) -> Expr:
        return self.accumulate(acc, _first_half(acc, self.pixels * self.dot), weight)


class Usmmla(Smmla):
    """`Smmla` of u8·s8."""

    name = mnemonics = "usmmla"
    sample_dtype = "uint8"

    def fitted(self, spec: ConvSpec, core: Core) -> DotProduct | None:
        return replace(self, core=core)


@dataclass(frozen=True)
class Neighbours:
    """How sums of neighbours are added: `add(acc, sums)` is int32x4 plus pairs of int16x8, `of_bytes(sums)`
    int16x8 of pairs of int8x16.
    """

    add: Callable[[Expr, Expr], Expr]
    of_bytes: Callable[[Expr], Expr]


def _neon_add(acc: Expr, sums: Expr) -> Expr:
    return acc + tirx.call_llvm_pure_intrin("int32x4", "llvm.aarch64.neon.saddlp.v4i32.v8i16", sums)


def _neon_of_bytes(sums: Expr) -> Expr:
    return tirx.call_llvm_pure_intrin("int16x8", "llvm.aarch64.neon.saddlp.v8i16.v16i8", sums)


def _neon32_add(acc: Expr, sums: Expr) -> Expr:
    return tirx.call_llvm_pure_intrin("int32x4", "llvm.arm.neon.vpadals.v4i32.v8i16", acc, sums)


def _neon32_of_bytes(sums: Expr) -> Expr:
    return tirx.call_llvm_pure_intrin("int16x8", "llvm.arm.neon.vpaddls.v8i16.v16i8", sums)


NEON, NEON32 = Neighbours(_neon_add, _neon_of_bytes), Neighbours(_neon32_add, _neon32_of_bytes)


@dataclass(frozen=True)
class NeonProduct(NarrowSums):
    """A product whose sums are added to their `neighbours`."""

    neighbours: Neighbours = NEON


class Smlal(NeonProduct):
    """One s8·s8 into 16 bits, where pairs are added into 32. No product of bytes leaves 16 bits; where sums
    of two are proven to stay there, two steps are added before they are widened.
    """

    name = "smlal"
    # The first product of a sum is not accumulated.
    mnemonics = r"smlal|smull|vmlal\.s8|vmull\.s8"
    dot = 2
    sample_dtype = "int8"

    def fitted(self, spec: ConvSpec, core: Core) -> DotProduct:
        offset = _offset(spec)
        lo, hi = (end + offset for end in sample_range(spec))
        low, high = weight_range(spec)
        # The ones that sum the windows of odd weights and of shifted samples are weights, those of the latter
        # samples too.
        steps = exact_sums((min(lo, 0), max(hi, 1)), (min(low, 0), max(high, 1)))
        fitted = replace(self, core=core, offset=offset)
        if steps >= PARTIAL_STEPS:
            return replace(
                fitted, partial_steps=steps, product_cycles=self.product_cycles / 2, product_uops=1
            )
        if steps < 2:
            return fitted
        # Two products and one widening; what they need on the way must not push out accumulators.
        cycles, spare = self.product_cycles * 0.75, self.spare_registers + self.registers // 8
        return replace(fitted, fused_steps=2, product_cycles=cycles, spare_registers=spare)

    @property
    def reason(self) -> str:
        if self.partial_steps:
            return f"smlal: sums of {self.partial_steps} steps are proven to fit 16 bits"
        if self.fused_steps > 1:
            return f"smull and smlal: sums of {self.fused_steps} steps are proven to fit 16 bits"
        return "smull, widened at once: sums could leave 16 bits"

    @property
    def partial(self) -> tuple[str, int]:
        return "int16", 2 * self.lanes

    def accumulate(self, acc: Expr, sample: Expr, weight: Expr) -> Expr:
        return self.widen(acc, _products(sample, weight))

    def accumulate_fused(self, acc: Expr, samples: Sequence[Expr], weights: Sequence[Expr]) -> Expr:
        products = [_products(s, w) for s, w in zip(samples, weights, strict=True)]
        return self.widen(acc, functools.reduce(operator.add, products))

    def add_partial(self, acc: Expr, sample: Expr, weight: Expr) -> Expr:
        return acc + _products(sample, weight)

    def widen(self, acc: Expr, partial: Expr) -> Expr:
        return self.neighbours.add(acc, partial)

    def peak_step(self, acc: Expr, weight: Expr) -> Expr:
        return self.add_partial(acc, _first_half(acc, self.vector_bytes), weight)


class Mla(NeonProduct):
    """One s8·s8 into 8 bits, where fours are added into 32: exact for 14 steps at 2 bits."""

    name = mnemonics = "mla"
    dot = 4
    sample_dtype = "int8"

    def fitted(self, spec: ConvSpec, core: Core) -> DotProduct | None:
        lo, hi = sample_range(spec)
        steps = exact_sums((lo, hi), weight_range(spec), bits=8)
        if hi > SIGNED_HIGH or steps < PARTIAL_STEPS:
            return None
        # Where the multiplier is wide, sixteen bytes take as long as two times eight.
        cycles = self.product_cycles / 2 if core.in_order else self.product_cycles
        return replace(self, core=core, partial_steps=steps, product_cycles=cycles)

    @property
    def reason(self) -> str:
        return f"mla: sums of {self.partial_steps} steps are proven to fit 8 bits"

    @property
    def partial(self) -> tuple[str, int]:
        return "int8", self.lanes * self.dot

    def accumulate(self, acc: Expr, sample: Expr, weight: Expr) -> Expr:
        return self.widen(acc, sample * weight)

    def add_partial(self, acc: Expr, sample: Expr, weight: Expr) -> Expr:
        return acc + sample * weight

    def widen(self, acc: Expr, partial: Expr) -> Expr:
        return self.neighbours.add(acc, self.neighbours.of_bytes(partial))


class SmlalWords(DotProduct):
    """One s16·s16 into 32 bits, which may wrap."""

    # `smlal` and, on Armv7, `vmlal`.
    name = "mlal"
    mnemonics = r"smlal|vmlal\.s16"
    dot = 1
    sample_dtype = "int16"
    weight_bytes = 2

    def accumulate(self, acc: Expr, sample: Expr, weight: Expr) -> Expr:
        product = convert(weight, "int32", LANES) * convert(sample, "int32", LANES)
        return (Wrapping(acc, LANES) + Wrapping(product, LANES)).value


def _products(sample: Expr, weight: Expr) -> Expr:
    """int16x8 of int8x8 times int8x8."""
    return convert(weight, "int16", 2 * LANES) * convert(sample, "int16", 2 * LANES)


def _first_half(acc: Expr, count: int) -> Expr:
    """The first `count` of twice as many bytes."""
    return _shuffled([tirx.reinterpret(vector("int8", 2 * count), acc)], range(count))


def _shuffled(values: Sequence[Expr], lanes: Iterable[int]) -> Expr:
    return tirx.Shuffle(list(values), [const(lane) for lane in lanes])


class Tbl(ByteTable):
    """Each of four instructions looks up a quarter of a table in four registers; an index beyond it finds 0,
    or with `tbx` what was found before (AArch64).
    """

    words = 4
    lanes = (16, 8)

    def looked_up(self, table: Sequence[Expr], index: Expr, dtype: str) -> Expr:
        lanes = index.ty.dtype.lanes
        bytes_ = vector("int8", lanes)
        registers = [tirx.reinterpret("int8x16", words) for words in table]
        codes = convert(index, "int8", lanes)
        found = None
        for first in range(0, len(registers), 4):
            place = tirx.bitwise_xor(codes, const(_QUARTERS[first // 4], "int8", lanes))
            name, before = ("tbl4", ()) if found is None else ("tbx4", (found,))
            operands = [*before, *registers[first : first + 4], place]
            found = tirx.call_llvm_pure_intrin(bytes_, f"llvm.aarch64.neon.{name}.v{lanes}i8", *operands)
        return convert(tirx.reinterpret(vector(dtype, lanes), found), "int32", lanes)


# What makes the first index of a quarter 0, as int8.
_QUARTERS = (0, 64, -128, -64)


# Products of an instruction. What yields 64 bits is a multiply-shift, what is scalar an address.
_INSTRUCTIONS = tuple(
    (re.compile(rf"\t{pattern}"), products)
    for pattern, products in (
        (r"(?:[su]|us)mmla\s", 32),
        (r"(?:[su]|us|su)dot\s+v\d+\.4s", 16),
        (r"(?:[su]|us|su)dot\s+v\d+\.2s", 8),
        (r"(?:[su]ml[as]l2?|[su]mull2?|ml[as]|mul)\s+v\d+\.8h", 8),
        (r"(?:[su]ml[as]l2?|[su]mull2?|ml[as]|mul)\s+v\d+\.4s", 4),
        (r"vm(?:la|ls|ul)l\.[su]8\s", 8),
        (r"vm(?:la|ls|ul)l\.[su]16\s", 4),
        (r"vm(?:la|ls|ul)\.i16\s+q", 8),
        (r"vm(?:la|ls|ul)\.i32\s+q", 4),
    )
)


def products_of(line: str) -> int:
    """Multiply-accumulates of one instruction of assembly, 0 where it does not multiply vectors."""
    return next((number for pattern, number in _INSTRUCTIONS if pattern.match(line)), 0)


def _with_dots(isa: Isa, source: str, tiles: tuple[DotProduct, ...] = ()) -> InstructionSet:
    """`sdot` for everything that `tiles` are not for. Words are not multiplied: four times as many products
    of bytes are as fast.
    """
    dots = Sdot(isa, LANES, 0.5, sample_steps=4)
    return InstructionSet(
        isa,
        source,
        (dots,),
        products_of=products_of,
        depthwise_lanes=DEPTHWISE_LANES,
        wide_products_by_shuffle=True,
        tiles=tiles,
        winograd_bytes=dots,
        byte_table=Tbl(),
    )


def _matrices(kind: type[Smmla]) -> DotProduct:
    # Two steps of two pixels are two loads and two shuffles.
    return kind(Isa.I8MM, LANES, 0.5, weight_uops=2, sample_uops=2, sample_steps=2, sample_cycles=0.25)


def _without_dots(
    isa: Isa, registers: int, sample_cycles: float, neighbours: Neighbours, table: ByteTable | None
) -> InstructionSet:
    products = Smlal(
        isa,
        LANES,
        # In-order and narrow cores: a product and its widening are two cycles of the one multiplier.
        product_cycles=2.0,
        registers=registers,
        spare_registers=3,
        product_uops=2,
        # Every step takes its word out of the register.
        sample_uops=9,
        sample_cycles=sample_cycles,
        sample_steps=8,
        neighbours=neighbours,
    )
    return InstructionSet(
        isa,
        "Arm Cortex-A72 software optimization guide: one SMLAL of 8 products a cycle (pipeline F0)",
        (products,),
        products_of=products_of,
        depthwise_lanes=DEPTHWISE_LANES,
        wide_products_by_shuffle=True,
        bytes=Mla(
            isa,
            LANES,
            product_cycles=2.0,
            registers=registers,
            spare_registers=3,
            sample_uops=9,
            widen_cycles=4.5,
            sample_cycles=sample_cycles,
            sample_steps=4,
            neighbours=neighbours,
        ),
        winograd_bytes=products,
        winograd_words=SmlalWords(
            isa,
            LANES,
            product_cycles=1.0,
            registers=registers,
            spare_registers=3,
            sample_cycles=sample_cycles,
            sample_steps=8,
        ),
        byte_table=table,
    )


ENTRIES = (
    _with_dots(
        Isa.I8MM,
        "LLVM's scheduling model of Neoverse V1: four SMMLA of 32 products a cycle, SDOT half of it",
        (_matrices(Smmla), _matrices(Usmmla)),
    ),
    _with_dots(
        Isa.DOTPROD,
        "LLVM's scheduling model of Neoverse N1: two SDOT of 16 products a cycle",
    ),
    _without_dots(Isa.NEON, 32, 0.5, NEON, Tbl()),
    _without_dots(Isa.NEON32, 16, 0.0, NEON32, None),
)
