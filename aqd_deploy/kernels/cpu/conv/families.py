"""The entry to the convolution kernels: which families apply to a geometry on an instruction set, in which
choices, and the function that each choice makes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from aqd_deploy.errors import ShapeError
from aqd_deploy.kernels.contract.caches import CORE, Core
from aqd_deploy.kernels.contract.choice import Choice
from aqd_deploy.kernels.contract.spec import ConvSpec, Epilogue
from aqd_deploy.kernels.cpu.amx.family import amx_applies, amx_choices, build_amx
from aqd_deploy.kernels.cpu.conv.blocked import blocked_layout, can_block, conv_blocked
from aqd_deploy.kernels.cpu.conv.blocking import Blocking, blockings
from aqd_deploy.kernels.cpu.conv.depthwise import conv_depthwise, depthwise_layout, is_depthwise
from aqd_deploy.kernels.cpu.conv.few_channels import conv_few, few_cycles, few_layout, is_few
from aqd_deploy.kernels.cpu.conv.grouped import GroupedPlan, conv_grouped, grouped_layout, grouped_plans
from aqd_deploy.kernels.cpu.conv.level_blocking import largest
from aqd_deploy.kernels.cpu.conv.loops import conv_loops, loops_layout
from aqd_deploy.kernels.cpu.conv.padded_rows import needs_strip
from aqd_deploy.kernels.cpu.conv.pooled import conv_pooled
from aqd_deploy.kernels.cpu.isa.select import DOTS, Dots, Product, byte_dots, dots_for, tile_dots
from aqd_deploy.kernels.cpu.winograd.conv import (
    conv_winograd,
    winograd_forms,
    winograd_layout,
)
from aqd_deploy.kernels.cpu.winograd.plan import WinogradPlan, tile_count, winograd_plans
from aqd_deploy.kernels.storage.layout import WeightLayout
from aqd_deploy.kernels.winograd.forms import FORMS, WinogradLayout
from aqd_deploy.targets.isa import Isa

Layout = WeightLayout | WinogradLayout

# How much longer register tiles take than their cost model says, next to which Winograd's is measured.
BLOCKED_OVER_ESTIMATE = 1.25
# Cycles of one product in plain loops, and what keeps them behind every other family.
LOOP_CYCLES = 4.0
SLOW = 1e6


@dataclass(frozen=True)
class Kernel:
    """One convolution as a TIR function, and how its weights lie.

    `prim_func` has no global symbol. Its parameters: data uint8 or int8 [H, W, I]; weights int8
    `packed_shape`; step parameters, store parameters and outputs [OH, OW, O] as in `spec.Epilogue`. Outputs
    must not alias inputs. `name` is the family with its instruction set, `why` the reason for it.
    `writes_once`: no output value is computed twice, so the same choice can be built with a
    `spec.StoreInPlace`.
    """

    prim_func: Any
    layout: Layout
    name: str
    why: str
    choice: Choice
    writes_once: bool

    @property
    def packed_shape(self) -> tuple[int, ...]:
        return self.layout.shape

    @property
    def stores_borders(self) -> bool:
        """Whether the same choice can be built with a `border_store.StoreBorder`."""
        if isinstance(self.layout, WinogradLayout):
            form = FORMS[self.layout.form]
            return form.rows * form.columns % self.layout.lanes == 0
        return self.choice.family in (*TILES, "few", "amx")

    def executed_macs(self, spec: ConvSpec) -> int:
        """Multiply-accumulates that the kernel executes, without those on padded channels. Winograd computes
        whole tiles, also where a map ends inside one.
        """
        inputs = spec.in_channels // spec.group * spec.out_channels
        if isinstance(self.layout, WinogradLayout):
            form = FORMS[self.layout.form]
            return tile_count(spec, form) * form.positions * inputs
        return spec.out_height * spec.out_width * spec.kernel[0] * spec.kernel[1] * inputs


@dataclass(frozen=True)
class Family:
    """A kind of convolution kernel.

    `applies(spec, isa)` says why it can be used, "" where it cannot; `choices(spec, isa, threads, core)`
    lists what it can be built with, each with the cycles that its cost model estimates, the best first;
    `build(spec, epilogue, isa, threads, choice, core)` makes the function and its layout. `reason` says why a
    choice was possible where that is not what `applies` says; `writes_once` as in `Kernel`.
    """

    name: str
    applies: Callable[[ConvSpec, Isa], str]
    choices: Callable[[ConvSpec, Isa, int, Core], list[tuple[float, Choice]]]
    build: Callable[[ConvSpec, Epilogue, Isa, int, Choice, Core], tuple[Any, Layout]]
    reason: Callable[[ConvSpec, Isa, Choice], str] | None = None
    writes_once: Callable[[ConvSpec, Isa, Choice], bool] = lambda _spec, _isa, _choice: False

    def why(self, spec: ConvSpec, isa: Isa, choice: Choice) -> str:
        """Why a kernel could be built with `choice`, in a phrase."""
        return self.reason(spec, isa, choice) if self.reason else self.applies(spec, isa)


def conv2d(
    spec: ConvSpec,
    epilogue: Epilogue,
    isa: Isa,
    threads: int,
    choice: Choice | None = None,
    core: Core = CORE,
) -> Kernel:
    """The kernel for `spec` on `isa`; `threads` is the size of the pool it will run in, on cores like `core`.

    `choice` is one of `conv_choices`, by default the first; one of register tiles where the epilogue has a
    pool. Raises ShapeError where the geometry has no output, channels do not divide into groups, or `choice`
    is none of this convolution's.
    """
    _check(spec)
    choices = conv_choices(spec, isa, threads, core)
    if epilogue.pool is not None:
        choices = tuple(entry for entry in choices if entry.family in TILES)
    chosen = choice or choices[0]
    if chosen not in choices:
        valid = "; ".join(str(c) for c in choices[:3])
        raise ShapeError("no kernel is built this way", received=str(chosen), valid=valid)
    family = _family(chosen)
    func, layout = family.build(spec, replace(epilogue, isa=isa), isa, threads, chosen, core)
    return Kernel(
        func,
        layout,
        f"{family.name}_{isa.value}",
        family.why(spec, isa, chosen),
        chosen,
        writes_once(spec, isa, chosen),
    )


def product_of(spec: ConvSpec, isa: Isa, choice: Choice) -> Product | None:
    """The product of the kernel that `choice` makes, None where it multiplies value by value."""
    match choice.family:
        case "blocked":
            return tile_dots(spec, isa).product
        case "bytes":
            return Product.MLA
        case "winograd":
            form = WinogradPlan.from_parameters(dict(choice.parameters)).form
            return winograd_forms(spec, isa)[form].product
        case "few":
            return _few_dots(spec, isa).product
        case "grouped":
            return dots_for(spec, isa).product
        case _:
            return None


def writes_once(spec: ConvSpec, isa: Isa, choice: Choice) -> bool:
    """As `Kernel.writes_once` of the kernel that `choice` makes."""
    return _family(choice).writes_once(spec, isa, choice)


def _family(choice: Choice) -> Family:
    return next(family for family in FAMILIES if family.name == choice.family)


@lru_cache(maxsize=16)
def conv_choices(spec: ConvSpec, isa: Isa, threads: int, core: Core = CORE) -> tuple[Choice, ...]:
    """Every way to build `spec`, by estimated time: the first is the default. Remembered, since a kernel and
    its variants with other stores ask for the same.
    """
    estimates = [
        estimate
        for family in FAMILIES
        if family.applies(spec, isa)
        for estimate in family.choices(spec, isa, threads, core)
    ]
    return tuple(choice for _, choice in sorted(estimates, key=lambda estimate: estimate[0]))


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


def _only(family: str) -> Callable[[ConvSpec, Isa, int, Core], list[tuple[float, Choice]]]:
    """The choice of a family with nothing to tune, the best wherever it applies."""
    return lambda _spec, _isa, _threads, _core: [(0.0, Choice(family))]


def _depthwise_applies(spec: ConvSpec, isa: Isa) -> str:
    return "one channel a group: vectors of channels" if is_depthwise(spec) else ""


@dataclass(frozen=True)
class _Tiles:
    """The family `name` of register tiles with the products that `dots` gives, None where it has none."""

    name: str
    dots: Callable[[ConvSpec, Isa, Core], Dots | None]

    def family(self) -> Family:
        return Family(self.name, self.applies, self.choices, self.build, writes_once=self.writes_once)

    def applies(self, spec: ConvSpec, isa: Isa) -> str:
        dots = self.dots(spec, isa, CORE)
        if dots is None or not can_block(spec, dots):
            return ""
        size = spec.out_channels // spec.group
        return f"{size} output channels a group: register tiles, packed weights; {dots.reason}"

    def choices(self, spec: ConvSpec, isa: Isa, threads: int, core: Core) -> list[tuple[float, Choice]]:
        dots = self._dots(spec, isa, core)
        layout = blocked_layout(spec, dots)
        main = spec.alone(spec.maps[largest(spec)])
        pixels = main.out_height * main.out_width
        share = spec.out_height * spec.out_width / pixels * BLOCKED_OVER_ESTIMATE
        return [
            (cycles * share, Choice.of(self.name, **plan.parameters()))
            for cycles, plan in blockings(main, layout, dots, threads, needs_strip(spec, layout, dots))
        ]

    def build(
        self, spec: ConvSpec, epilogue: Epilogue, isa: Isa, threads: int, choice: Choice, core: Core
    ) -> tuple[Any, Layout]:
        dots = self._dots(spec, isa, core)
        plan = Blocking.from_parameters(dict(choice.parameters))
        write = conv_blocked if epilogue.pool is None else conv_pooled
        return write(spec, epilogue, dots, threads, plan), blocked_layout(spec, dots)

    def writes_once(self, spec: ConvSpec, isa: Isa, choice: Choice) -> bool:
        blocks = blocked_layout(spec, self._dots(spec, isa, CORE)).blocks // spec.group
        plan = Blocking.from_parameters(dict(choice.parameters))
        return not spec.levels and plan.writes_once(spec, blocks)

    def _dots(self, spec: ConvSpec, isa: Isa, core: Core) -> Dots:
        dots = self.dots(spec, isa, core)
        assert dots is not None
        return dots


TILES = {
    "blocked": _Tiles("blocked", lambda spec, isa, core: replace(tile_dots(spec, isa), core=core)),
    "bytes": _Tiles("bytes", byte_dots),
}


def _winograd_applies(spec: ConvSpec, isa: Isa) -> str:
    return ", ".join(f"{form} is exact" for form in winograd_forms(spec, isa))


def _winograd_reason(spec: ConvSpec, isa: Isa, choice: Choice) -> str:
    form = WinogradPlan.from_parameters(dict(choice.parameters)).form
    bits = 8 * winograd_forms(spec, isa)[form].weight_bytes
    saving = f"{FORMS[form].saving:.3g} times fewer products"
    return f"{form}, exact in {bits} bits for these ranges: {saving}"


def _winograd_choices(spec: ConvSpec, isa: Isa, threads: int, core: Core) -> list[tuple[float, Choice]]:
    forms = {form: replace(dots, core=core) for form, dots in winograd_forms(spec, isa).items()}
    plans = winograd_plans(spec, forms, threads)
    return [(cycles, Choice.of("winograd", **plan.parameters())) for cycles, plan in plans]


def _build_winograd(
    spec: ConvSpec, epilogue: Epilogue, isa: Isa, threads: int, choice: Choice, core: Core
) -> tuple[Any, Layout]:
    plan = WinogradPlan.from_parameters(dict(choice.parameters))
    dots = winograd_forms(spec, isa)[plan.form]
    return conv_winograd(spec, epilogue, dots, threads, plan), winograd_layout(spec, dots, plan)


def _winograd_writes_once(spec: ConvSpec, _isa: Isa, choice: Choice) -> bool:
    form = FORMS[WinogradPlan.from_parameters(dict(choice.parameters)).form]
    return all(m.out_height % form.rows == 0 and m.out_width % form.columns == 0 for m in spec.maps)


def _grouped_applies(spec: ConvSpec, isa: Isa) -> str:
    dots = dots_for(spec, isa)
    if spec.group == 1 or is_depthwise(spec) or can_block(spec, dots):
        return ""
    size = spec.out_channels // spec.group
    return f"{size} output channels a group: lanes take the inputs of their groups; {dots.reason}"


def _grouped_choices(spec: ConvSpec, isa: Isa, threads: int, core: Core) -> list[tuple[float, Choice]]:
    plans = grouped_plans(spec, replace(dots_for(spec, isa), core=core), threads)
    return [(cycles, plan.choice()) for cycles, plan in plans]


def _build_grouped(
    spec: ConvSpec, epilogue: Epilogue, isa: Isa, threads: int, choice: Choice, core: Core
) -> tuple[Any, Layout]:
    dots, plan = dots_for(spec, isa), GroupedPlan(**dict(choice.parameters))
    return conv_grouped(spec, epilogue, dots, threads, plan), grouped_layout(spec, dots)


def _loops_choices(spec: ConvSpec, _isa: Isa, _threads: int, _core: Core) -> list[tuple[float, Choice]]:
    values = spec.out_height * spec.out_width * spec.out_channels
    products = spec.kernel[0] * spec.kernel[1] * spec.in_channels // spec.group
    return [(values * (products * LOOP_CYCLES + SLOW), Choice("loops"))]


def _few_applies(spec: ConvSpec, isa: Isa) -> str:
    if not is_few(spec, _few_dots(spec, isa)):
        return ""
    return f"{spec.out_channels} output channels: dot products along the input channels"


def _few_dots(spec: ConvSpec, isa: Isa) -> Dots:
    """The dot product that adds in 32 bits."""
    return replace(dots_for(spec, isa), partial_steps=0) if DOTS[isa].sample_dtype == "int8" else DOTS[isa]


def _few_choices(spec: ConvSpec, isa: Isa, threads: int, _core: Core) -> list[tuple[float, Choice]]:
    return [(few_cycles(spec, _few_dots(spec, isa), threads), Choice("few"))]


FAMILIES = (
    Family(
        "amx",
        lambda spec, isa: amx_applies(spec) if isa is Isa.AMX else "",
        lambda spec, _isa, threads, core: amx_choices(spec, threads, core),
        lambda spec, epilogue, _isa, threads, choice, _core: build_amx(spec, epilogue, threads, choice),
        writes_once=lambda _spec, _isa, _choice: True,
    ),
    Family(
        "depthwise",
        _depthwise_applies,
        _only("depthwise"),
        lambda spec, epilogue, isa, threads, _choice, _core: (
            conv_depthwise(spec, epilogue, isa, threads),
            depthwise_layout(spec, isa),
        ),
    ),
    Family(
        "winograd",
        _winograd_applies,
        _winograd_choices,
        _build_winograd,
        _winograd_reason,
        _winograd_writes_once,
    ),
    Family(
        "few",
        _few_applies,
        _few_choices,
        lambda spec, epilogue, isa, threads, _choice, _core: (
            conv_few(spec, epilogue, _few_dots(spec, isa), threads),
            few_layout(spec),
        ),
    ),
    *(tiles.family() for tiles in TILES.values()),
    Family("grouped", _grouped_applies, _grouped_choices, _build_grouped),
    Family(
        "loops",
        lambda _spec, _isa: "one value at a time: any geometry",
        _loops_choices,
        lambda spec, epilogue, _isa, threads, _choice, _core: (
            conv_loops(spec, epilogue, threads),
            loops_layout(spec),
        ),
    ),
)
