"""AMX beside AVX-512 VNNI: tiles for convolutions that fill them, vectors for everything else."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace
from typing import ClassVar

from aqd_deploy.kernels.contract.kernel import Peak
from aqd_deploy.kernels.cpu.amx.peak import tile_peak
from aqd_deploy.kernels.cpu.isa import x86
from aqd_deploy.kernels.cpu.isa.instruction_set import InstructionSet
from aqd_deploy.targets.isa import Isa

_SOURCE = "Intel, optimization reference manual: one TDPBUSD of 16,384 products in 16 cycles"
_PRODUCT = re.compile(r"\ttdpb(?:ss|su|us|uu)d\s")
_PRODUCTS = 16 * 16 * 64


def products_of(line: str) -> int:
    """Multiply-accumulates of one instruction, 0 where it multiplies neither tiles nor vectors."""
    return _PRODUCTS if _PRODUCT.match(line) else x86.products_of(line)


@dataclass(frozen=True)
class Tiles(InstructionSet):
    """A set with products of whole tiles, beside those of its vectors."""

    tile_registers: ClassVar[bool] = True

    def peak_functions(self, threads: int, steps: int) -> list[Peak]:
        return [tile_peak(threads, steps), *super().peak_functions(threads, steps)]


_VECTORS = x86.with_vnni(Isa.AMX, 16, 32, _SOURCE)
ENTRIES = (
    replace(
        Tiles(**{field.name: getattr(_VECTORS, field.name) for field in fields(_VECTORS)}),
        products_of=products_of,
        # Winograd's forms save fewer products than tiles are faster.
        winograd_bytes=None,
        winograd_words=None,
        byte_table=x86.Vpermi2b(),
        gather=x86.vpgatherdd,
    ),
)
