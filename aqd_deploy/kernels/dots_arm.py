"""The products of ARM's vector instructions, 128 bits of sums a piece.

`sdot` has an intrinsic; a widening multiplication written as such becomes `smull`/`smlal` (Armv7: `vmull`,
`vmlal`), with one lane of a vector as its operand where that is what is multiplied.
"""

from __future__ import annotations

from tvm import tirx

from aqd_deploy.kernels.emit import Expr, Wrapping, convert
from aqd_deploy.kernels.isa import Isa

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


def accumulate_words(acc: Expr, sample: Expr, weight: Expr) -> Expr:
    """int32x4 `acc` + int16x4 times int16x4; the sums may wrap."""
    product = convert(weight, "int32", LANES) * convert(sample, "int32", LANES)
    return (Wrapping(acc, LANES) + Wrapping(product, LANES)).value
