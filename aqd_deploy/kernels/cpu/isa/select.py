"""The entries of the instruction sets, and the dot product of an entry that is exact for given operands."""

from __future__ import annotations

from collections.abc import Iterable

from aqd_deploy.errors import TargetError
from aqd_deploy.kernels.contract.caches import CORE, Core
from aqd_deploy.kernels.contract.spec import ConvSpec
from aqd_deploy.kernels.cpu.isa import amx, arm, portable, x86
from aqd_deploy.kernels.cpu.isa.dot_product import DotProduct
from aqd_deploy.kernels.cpu.isa.instruction_set import InstructionSet
from aqd_deploy.targets.isa import Isa

ENTRIES = {entry.isa: entry for entry in (*amx.ENTRIES, *x86.ENTRIES, *arm.ENTRIES, *portable.ENTRIES)}


def instruction_set(isa: Isa) -> InstructionSet:
    """The entry of `isa`. Raises TargetError where it has none."""
    if isa not in ENTRIES:
        raise TargetError(
            "no kernels are written for this instruction set",
            received=isa.value,
            valid=", ".join(each.value for each in ENTRIES),
        )
    return ENTRIES[isa]


def portable_entry() -> InstructionSet:
    """The entry of plain arithmetic, which every CPU has."""
    return next(entry for entry in ENTRIES.values() if entry.isa.is_portable)


def dots_for(spec: ConvSpec, isa: Isa, core: Core = CORE) -> DotProduct:
    """The dot product for the operands of `spec`: the first one that their ranges prove exact."""
    return _first_exact(instruction_set(isa).products, spec, core)


def tile_dots(spec: ConvSpec, isa: Isa, core: Core = CORE) -> DotProduct:
    """As `dots_for`, for register tiles, whose products may take several pixels."""
    entry = instruction_set(isa)
    return _first_exact((*entry.tiles, *entry.products), spec, core)


def byte_dots(spec: ConvSpec, isa: Isa, core: Core = CORE) -> DotProduct | None:
    """The product that adds in 8 bits, None where there is none or it is not exact for enough steps."""
    dots = instruction_set(isa).bytes
    return None if dots is None else dots.fitted(spec, core)


def vector_dots(spec: ConvSpec, isa: Isa, core: Core = CORE) -> DotProduct | None:
    """The product for operands of any range, None where vectors of bytes are not its operands as they are."""
    general = instruction_set(isa).products[-1]
    return general.fitted(spec, core) if general.sums_bytes else None


def _first_exact(candidates: Iterable[DotProduct], spec: ConvSpec, core: Core) -> DotProduct:
    fitted = (dots.fitted(spec, core) for dots in candidates)
    return next(dots for dots in fitted if dots is not None)
