"""The instruction sets that convolution kernels are written for, and what each asks of a CPU.

A new one is a member, its features, and an entry in `kernels/cpu/isa/`.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

from aqd_deploy.errors import TargetError


class Isa(Enum):
    """Which instructions a kernel is built on; all give the same integers.

    AMX: products of tiles of 16 x 64 bytes (`tdpbusd`, `tdpbssd`); what does not fill them is as with VNNI.
    Tables of bytes lie in registers (`vpermi2b`), which every CPU with such tiles has.
    VNNI: AVX-512 VNNI, `vpdpbusd` on 512 bits (u8·s8, four products added, never saturating).
    AVXVNNI: the same instruction on 256 bits, as CPUs without AVX-512 have it.
    AVX512: AVX-512 BW without VNNI; AVX2: 256 bits. Both have two dot products: 8-bit `vpmaddubsw` where the
    operands' ranges prove that nothing saturates, else 16-bit `vpmaddwd` after widening.
    I8MM: AArch64 with FEAT_I8MM and dot products. Register tiles multiply matrices (`smmla`, `usmmla`: two
    pixels by two channels, eight products added), everything else is as with DOTPROD.
    DOTPROD: AArch64 with FEAT_DotProd, `sdot` on 128 bits (s8·s8, four products added).
    NEON: AArch64 without it, NEON32: Armv7 with NEON. Both multiply s8·s8 into 16 bits (`smlal`), where sums
    stay for as many steps as the ranges prove, and s16·s16 into 32.
    PORTABLE: plain integer arithmetic for any CPU.
    """

    AMX = "amx"
    VNNI = "vnni"
    AVX512 = "avx512"
    AVXVNNI = "avxvnni"
    AVX2 = "avx2"
    I8MM = "i8mm"
    DOTPROD = "dotprod"
    NEON = "neon"
    NEON32 = "neon32"
    PORTABLE = "portable"

    @property
    def is_portable(self) -> bool:
        """Whether its kernels know no instructions of the CPU."""
        return self is Isa.PORTABLE


# The features of /proc/cpuinfo that programs of an instruction set may use; the fastest first.
FEATURES = {
    Isa.AMX: frozenset(
        {"amx_tile", "amx_int8", "avx512_vnni", "avx512vbmi", "avx512f", "avx512bw", "avx512vl"}
    ),
    Isa.VNNI: frozenset({"avx512_vnni", "avx512f", "avx512bw", "avx512vl"}),
    Isa.AVXVNNI: frozenset({"avx_vnni", "avx2"}),
    Isa.AVX512: frozenset({"avx512f", "avx512bw", "avx512vl"}),
    Isa.AVX2: frozenset({"avx2"}),
    Isa.I8MM: frozenset({"asimd", "asimddp", "i8mm"}),
    Isa.DOTPROD: frozenset({"asimd", "asimddp"}),
    Isa.NEON: frozenset({"asimd"}),
    Isa.NEON32: frozenset({"neon"}),
    Isa.PORTABLE: frozenset[str](),
}


def best_isa(features: Iterable[str]) -> Isa:
    """The fastest instruction set that `features`, as /proc/cpuinfo names them, allow."""
    have = frozenset(features)
    return next(isa for isa, needed in FEATURES.items() if needed <= have)


def isa_named(name: str) -> Isa:
    """The instruction set called `name`. Raises TargetError where there is none."""
    try:
        return Isa(name)
    except ValueError:
        valid = ", ".join(isa.value for isa in Isa)
        raise TargetError("unknown instruction set", received=repr(name), valid=valid) from None
