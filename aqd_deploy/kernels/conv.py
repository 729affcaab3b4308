"""The entry to the convolution kernels: which families apply to a geometry on an instruction set, in which
choices, and the function that each choice makes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aqd_deploy.errors import ShapeError
from aqd_deploy.kernels.blocking import Blocking, blockings
from aqd_deploy.kernels.choice import Choice
from aqd_deploy.kernels.conv_blocked import blocked_layout, can_block, conv_blocked
from aqd_deploy.kernels.conv_depthwise import conv_depthwise, depthwise_layout, is_depthwise
from aqd_deploy.kernels.conv_loops import conv_loops, loops_layout
from aqd_deploy.kernels.dots import DOTS
from aqd_deploy.kernels.isa import Isa
from aqd_deploy.kernels.layout import WeightLayout
from aqd_deploy.kernels.level_blocking import largest
from aqd_deploy.kernels.spec import ConvSpec, Epilogue
from aqd_deploy.kernels.strip import needs_strip


@dataclass(frozen=True)
class Kernel:
    """One convolution as a TIR function, and how its weights lie.

    `prim_func` has no global symbol. Its parameters: data uint8 or int8 [H, W, I]; weights int8
    `packed_shape`; step parameters, store parameters and outputs [OH, OW, O] as in `spec.Epilogue`. Outputs
    must not alias inputs. `name` is the family with its instruction set, `why` the reason for it.
    """

    prim_func: Any
    layout: WeightLayout
    name: str
    why: str
    choice: Choice

    @property
    def packed_shape(self) -> tuple[int, ...]:
        return self.layout.shape


@dataclass(frozen=True)
class Family:
    """A kind of convolution kernel.

    `applies(spec, isa)` says why it can be used, "" where it cannot; `choices(spec, isa, threads)` lists what
    it can be built with, the best by its cost model first; `build(spec, epilogue, isa, threads, choice)`
    makes the function and its layout.
    """

    name: str
    applies: Callable[[ConvSpec, Isa], str]
    choices: Callable[[ConvSpec, Isa, int], list[Choice]]
    build: Callable[[ConvSpec, Epilogue, Isa, int, Choice], tuple[Any, WeightLayout]]


def conv2d(
    spec: ConvSpec, epilogue: Epilogue, isa: Isa, threads: int, choice: Choice | None = None
) -> Kernel:
    """The kernel for `spec` on `isa`; `threads` is the size of the pool it will run in.

    `choice` is one of `conv_choices`, by default the first. Raises ShapeError where the geometry has no
    output, channels do not divide into groups, or `choice` is none of this convolution's.
    """
    _check(spec)
    for family in FAMILIES:
        why = family.applies(spec, isa)
        if not why or (choice is not None and choice.family != family.name):
            continue
        choices = family.choices(spec, isa, threads)
        if choice is not None and choice not in choices:
            continue
        chosen = choice or choices[0]
        func, layout = family.build(spec, epilogue, isa, threads, chosen)
        return Kernel(func, layout, f"{family.name}_{isa.value}", why, chosen)
    raise ShapeError(
        "no kernel is built this way",
        received=str(choice),
        valid="; ".join(str(c) for c in conv_choices(spec, isa, threads)[:3]),
    )


def conv_choices(spec: ConvSpec, isa: Isa, threads: int) -> list[Choice]:
    """Every way to build `spec`: the families that apply, each with its choices, the default first."""
    return [
        choice
        for family in FAMILIES
        if family.applies(spec, isa)
        for choice in family.choices(spec, isa, threads)
    ]


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


def _only(family: str) -> Callable[[ConvSpec, Isa, int], list[Choice]]:
    """The choices of a family with nothing to tune."""
    return lambda _spec, _isa, _threads: [Choice(family)]


def _depthwise_applies(spec: ConvSpec, isa: Isa) -> str:
    return "one channel a group: vectors of channels" if is_depthwise(spec) else ""


def _blocked_applies(spec: ConvSpec, isa: Isa) -> str:
    if not can_block(spec, DOTS[isa]):
        return ""
    return f"{spec.out_channels // spec.group} output channels a group: register tiles, packed weights"


def _blocked_choices(spec: ConvSpec, isa: Isa, threads: int) -> list[Choice]:
    dots = DOTS[isa]
    layout = blocked_layout(spec, dots)
    main = spec.alone(spec.maps[largest(spec)])
    return [
        Choice.of("blocked", **plan.parameters())
        for plan in blockings(main, layout, dots, threads, needs_strip(spec, layout, dots))
    ]


def _build_blocked(
    spec: ConvSpec, epilogue: Epilogue, isa: Isa, threads: int, choice: Choice
) -> tuple[Any, WeightLayout]:
    dots = DOTS[isa]
    plan = Blocking.from_parameters(dict(choice.parameters))
    return conv_blocked(spec, epilogue, dots, threads, plan), blocked_layout(spec, dots)


def _loops_applies(spec: ConvSpec, isa: Isa) -> str:
    if is_depthwise(spec) or can_block(spec, DOTS[isa]):
        return ""
    reason = (
        f"groups of {spec.out_channels // spec.group} output channels do not fill {DOTS[isa].lanes} lanes"
    )
    return reason + (" or have odd weights" if spec.odd else "")


FAMILIES = (
    Family(
        "depthwise",
        _depthwise_applies,
        _only("depthwise"),
        lambda spec, epilogue, isa, threads, _: (
            conv_depthwise(spec, epilogue, isa, threads),
            depthwise_layout(spec, isa),
        ),
    ),
    Family("blocked", _blocked_applies, _blocked_choices, _build_blocked),
    Family(
        "loops",
        _loops_applies,
        _only("loops"),
        lambda spec, epilogue, _isa, threads, _: (conv_loops(spec, epilogue, threads), loops_layout(spec)),
    ),
)
