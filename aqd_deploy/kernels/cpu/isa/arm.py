"""The products of ARM's vector instructions, 128 bits of sums a piece.

`sdot` has an intrinsic; a widening multiplication written as such becomes `smull`/`smlal` (Armv7: `vmull`,
`vmlal`), with one lane of a vector as its operand where that is what is multiplied.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tvm import tirx

from aqd_deploy.kernels.cpu.emit import Expr, Wrapping, const, convert
from aqd_deploy.targets.isa import Isa

LANES = 4


def sdot(acc: Expr, sample: Expr, weight: Expr) -> Expr:
    """int32x4 `acc` + four s8·s8 in each lane. Only as the last operand may the samples be one lane of a
    vector.
    """
    name = "llvm.aarch64.neon.sdot.v4i32.v16i8"
    return tirx.call_llvm_pure_intrin("int32x4", name, acc, weight, sample)


def products(sample: Expr, weight: Expr) -> Expr:
    """int16x8 of int8x8 times int8x8; no product of bytes leaves 16 bits."""
    return convert(weight, "int16", 2 * LANES) * convert(sample, "int16", 2 * LANES)


def add_pairs(acc: Expr, sums: Expr, isa: Isa) -> Expr:
    """int32x4 `acc` + the sums of neighbours of int16x8."""
    if isa is Isa.NEON32:
        return tirx.call_llvm_pure_intrin("int32x4", "llvm.arm.neon.vpadals.v4i32.v8i16", acc, sums)
    return acc + tirx.call_llvm_pure_intrin("int32x4", "llvm.aarch64.neon.saddlp.v4i32.v8i16", sums)


def pairs(sums: Expr, isa: Isa) -> Expr:
    """int16x8, the sums of neighbours of int8x16."""
    name = "llvm.arm.neon.vpaddls" if isa is Isa.NEON32 else "llvm.aarch64.neon.saddlp"
    return tirx.call_llvm_pure_intrin("int16x8", f"{name}.v8i16.v16i8", sums)


def accumulate_words(acc: Expr, sample: Expr, weight: Expr) -> Expr:
    """int32x4 `acc` + int16x4 times int16x4; the sums may wrap."""
    product = convert(weight, "int32", LANES) * convert(sample, "int32", LANES)
    return (Wrapping(acc, LANES) + Wrapping(product, LANES)).value


def matrix(instruction: str, acc: Expr, samples: Expr, weights: Expr) -> Expr:
    """int32x8 `acc` + the eight products of each of two pixels (8-bit x16) with each of four channels
    (int8x32), by `smmla` or `usmmla`; it holds two matrices of two pixels times two channels.
    """
    name = f"llvm.aarch64.neon.{instruction}.v4i32.v16i8"
    halves = [
        tirx.call_llvm_pure_intrin(
            "int32x4",
            name,
            _shuffled([acc], range(LANES * half, LANES * (half + 1))),
            samples,
            _shuffled([weights], range(16 * half, 16 * (half + 1))),
        )
        for half in (0, 1)
    ]
    return _shuffled(halves, range(2 * LANES))


def both_pixels(values: Expr) -> Expr:
    """The accumulator of `matrix` with the sums `values`, int32x4, for both pixels."""
    return _shuffled([values, values], (0, 1, 0, 1, 2, 3, 2, 3))


def of_pixel(acc: Expr, pixel: int) -> Expr:
    """The sums of pixel 0 or 1 in the accumulator of `matrix`, int32x4."""
    first = 2 * pixel
    return _shuffled([acc], (first, first + 1, first + LANES, first + LANES + 1))


def pair(words: Sequence[Expr], step: int) -> Expr:
    """The samples of `matrix`: word `step` of those of two pixels, int64 [steps] each."""
    return tirx.reinterpret("int8x16", _shuffled(words, (step, words[0].ty.dtype.lanes + step)))


def _shuffled(values: Sequence[Expr], lanes: Iterable[int]) -> Expr:
    return tirx.Shuffle(list(values), [const(lane) for lane in lanes])
