"""The entry to the convolution kernels: which families apply to a geometry on an instruction set, in which
choices, and the kernel that each choice makes.
"""

from __future__ import annotations

from functools import lru_cache

from aqd_deploy.errors import ShapeError
from aqd_deploy.kernels.contract.caches import CORE, Core
from aqd_deploy.kernels.contract.choice import Choice
from aqd_deploy.kernels.contract.kernel import Kernel
from aqd_deploy.kernels.contract.spec import ConvSpec, Epilogue, StoreBorder
from aqd_deploy.kernels.cpu.amx import family as amx
from aqd_deploy.kernels.cpu.conv import depthwise, few_channels, grouped, loops, register_tiles
from aqd_deploy.kernels.cpu.conv.family import Family
from aqd_deploy.kernels.cpu.winograd import family as winograd
from aqd_deploy.targets.isa import Isa

# Of equal estimates the first one's is taken.
FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        amx.FAMILY,
        depthwise.FAMILY,
        winograd.FAMILY,
        few_channels.FAMILY,
        register_tiles.BLOCKED,
        register_tiles.BYTES,
        grouped.FAMILY,
        loops.FAMILY,
    )
}


def conv2d(
    spec: ConvSpec,
    epilogue: Epilogue,
    isa: Isa,
    threads: int,
    choice: Choice | None = None,
    core: Core = CORE,
) -> Kernel:
    """The kernel for `spec` on `isa`; `threads` is the size of the pool it will run in, on cores like `core`.

    `choice` is one of `conv_choices`, by default the first; of a family that pools where the epilogue has a
    pool. Raises ShapeError where the geometry has no output, channels do not divide into groups, `choice` is
    none of this convolution's, or outputs have parts that its family does not split; TargetError where no
    kernels are written for `isa`.
    """
    _check(spec)
    choices = conv_choices(spec, isa, threads, core)
    if epilogue.pool is not None:
        choices = tuple(entry for entry in choices if FAMILIES[entry.family].pools)
    chosen = choice or choices[0]
    if chosen not in choices:
        valid = "; ".join(str(c) for c in choices[:3])
        raise ShapeError("no kernel is built this way", received=str(chosen), valid=valid)
    family = FAMILIES[chosen.family]
    splits = family.splits_borders(spec, isa, chosen)
    parts = [store.parts for store in epilogue.stores if isinstance(store, StoreBorder) and store.parts]
    if parts and not splits:
        valid = "an output that has all channels"
        raise ShapeError(f"kernels of {family.name} do not split outputs", received=parts[0], valid=valid)
    func, layout = family.build(spec, epilogue, isa, threads, chosen, core)
    return Kernel(
        func,
        layout,
        f"{family.name}_{isa.value}",
        family.why(spec, isa, chosen),
        chosen,
        family.executed_macs(spec, chosen),
        family.writes_once(spec, isa, chosen),
        family.stores_borders(spec, isa, chosen),
        splits,
    )


def conv_choices(spec: ConvSpec, isa: Isa, threads: int, core: Core = CORE) -> tuple[Choice, ...]:
    """Every way to build `spec`, by estimated time: the first is the default."""
    return tuple(choice for _, choice in conv_estimates(spec, isa, threads, core))


@lru_cache(maxsize=16)
def conv_estimates(
    spec: ConvSpec, isa: Isa, threads: int, core: Core = CORE
) -> tuple[tuple[float, Choice], ...]:
    """`conv_choices` with the cycles of each. Remembered, since a kernel and its variants with other stores
    ask for the same.
    """
    estimates = [
        estimate
        for family in FAMILIES.values()
        if family.applies(spec, isa)
        for estimate in family.choices(spec, isa, threads, core)
    ]
    return tuple(sorted(estimates, key=lambda estimate: estimate[0]))


def _check(spec: ConvSpec) -> None:
    if any(m.out_height < 1 or m.out_width < 1 for m in spec.maps):
        raise ShapeError(
            "convolution has no output",
            received=f"{spec.out_height}x{spec.out_width}",
            valid="an input at least as large as the kernel",
        )
    if spec.in_channels % spec.group or spec.out_channels % spec.group:
        raise ShapeError(
            "channels do not divide into groups",
            received=f"{spec.in_channels} -> {spec.out_channels} in {spec.group} groups",
            valid="channel counts that are multiples of the group count",
        )
