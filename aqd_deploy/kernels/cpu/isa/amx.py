"""AMX beside AVX-512 VNNI: tiles for convolutions that fill them, vectors for everything else."""

from __future__ import annotations

import re
from dataclasses import replace

from aqd_deploy.kernels.cpu.isa.x86 import vnni
from aqd_deploy.targets.isa import Isa

_SOURCE = "Intel, optimization reference manual: one TDPBUSD of 16,384 products in 16 cycles"
# Winograd's forms save fewer products than tiles are faster.
ENTRIES = (
    replace(vnni(Isa.AMX, 16, 32, _SOURCE), winograd_bytes=None, winograd_words=None, tile_registers=True),
)

_PRODUCT = re.compile(r"\ttdpb(?:ss|su|us|uu)d\s")
_PRODUCTS = 16 * 16 * 64


def products_of(line: str) -> int:
    """Multiply-accumulates of one instruction of assembly, 0 where it does not multiply tiles."""
    return _PRODUCTS if _PRODUCT.match(line) else 0
