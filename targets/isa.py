"""The instruction sets that convolution kernels are written for."""

from __future__ import annotations

from enum import Enum


class Isa(Enum):
    """Which instructions a kernel is built on; all give the same integers.

    AMX: products of tiles of 16 x 64 bytes (`tdpbusd`, `tdpbssd`); what does not fill them is as with VNNI.
    VNNI: AVX-512 VNNI, `vpdpbusd` on 512 bits (u8·s8, four products added, never saturating).
    AVXVNNI: the same instruction on 256 bits, as CPUs without AVX-512 have it.
    AVX512: AVX-512 BW without VNNI; AVX2: 256 bits. Both have two dot products: 8-bit `vpmaddubsw` where the
    operands' ranges prove that nothing saturates, else 16-bit `vpmaddwd` after widening (`dots.dots_for`).
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


ARM = (Isa.I8MM, Isa.DOTPROD, Isa.NEON, Isa.NEON32)
