"""The instruction sets that convolution kernels are written for."""

from __future__ import annotations

from enum import Enum


class Isa(Enum):
    """Which dot product a kernel is built on; all give the same integers.

    VNNI: AVX-512 VNNI, `vpdpbusd` (u8·s8, four products added, never saturating).
    AVX2: 16-bit `vpmaddwd` after widening; `vpmaddubsw` saturates and is never used.
    PORTABLE: plain integer arithmetic for any CPU.
    """

    VNNI = "vnni"
    AVX2 = "avx2"
    PORTABLE = "portable"
