"""The convolution that covers every geometry: plain loops, any group count, any dilation, any instruction
set.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx

from aqd_deploy.kernels.contract.caches import Core
from aqd_deploy.kernels.contract.choice import Choice
from aqd_deploy.kernels.contract.kernel import Layout
from aqd_deploy.kernels.contract.spec import ConvSpec, Epilogue
from aqd_deploy.kernels.cpu.conv.family import Family
from aqd_deploy.kernels.cpu.emit import Buffer, Emitter, Expr, const, convert, load
from aqd_deploy.kernels.cpu.epilogue.epilogue import Place, bind_epilogue
from aqd_deploy.kernels.storage.layout import WeightLayout
from aqd_deploy.targets.isa import Isa

# Cycles of one product, and what keeps loops behind every other family.
LOOP_CYCLES = 4.0
SLOW = 1e6


def loops_layout(spec: ConvSpec) -> WeightLayout:
    """Output channel by output channel, kernel rows dense: [O, kh, kw·I]."""
    return WeightLayout(spec.out_channels, spec.in_channels // spec.group, spec.kernel, lanes=1, dot=1)


def conv_loops(spec: ConvSpec, epilogue: Epilogue, isa: Isa, threads: int) -> Any:
    """PrimFunc of one output value at a time; parameters as in `spec.Epilogue`."""
    em = Emitter()
    data = em.parameter(
        "data",
        (spec.height, spec.width, spec.in_channels),
        "int8" if spec.input_signed else "uint8",
    )
    layout = loops_layout(spec)
    weights = em.parameter("weights", layout.shape, "int8")
    bound = bind_epilogue(
        em, epilogue, isa, spec.out_height, spec.out_width, spec.out_channels, max(1, len(spec.levels))
    )
    pads = _pad_table(em, spec)
    for level, m in enumerate(spec.maps):
        one = spec.alone(m)
        with em.loop("y", one.out_height, "parallel" if threads > 1 else "serial") as y:
            acc = em.alloc("acc", "int32", 1, "local")
            total = em.alloc("total", "int32", 1, "local")
            with em.loop("x", one.out_width) as x, em.loop("o", spec.out_channels) as o:
                em.store(acc, 0, const(0))
                em.store(total, 0, const(0))
                _reduce(em, one, (y, x, o), (data, m.in_start), weights, pads, (acc, total))
                value = load(acc, const(0))
                if spec.odd:
                    value = value * 2 + load(total, const(0))
                place = Place(
                    y * one.out_width + x + m.out_start, y, x, const(level) if spec.levels else None
                )
                bound.emit(em, em.bind("v", value), place, o, 1)
    return em.finish()


def _reduce(
    em: Emitter,
    spec: ConvSpec,
    output: tuple[Expr, Expr, Expr],
    source: tuple[Buffer, int],
    weights: Buffer,
    pads: Buffer | None,
    sums: tuple[Buffer, Buffer],
) -> None:
    """sums += (Σ sample·weight, Σ sample) for the output (y, x, channel); the map begins at pixel
    `source[1]`.
    """
    (y, x, o), (data, start), (acc, total) = output, source, sums
    kh, kw = spec.kernel
    group_in, group_out = spec.in_channels // spec.group, spec.out_channels // spec.group
    first = em.bind("first", (o // group_out) * group_in) if spec.group > 1 else const(0)
    with em.loop("ky", kh) as ky, em.loop("kx", kw) as kx:
        row = em.bind("row", y * spec.strides[0] + ky * spec.dilations[0] - spec.pads[0])
        column = em.bind("column", x * spec.strides[1] + kx * spec.dilations[1] - spec.pads[1])
        inside = tirx.all(row >= 0, row < spec.height, column >= 0, column < spec.width)
        with em.loop("ci", group_in) as ci:
            at = (row * spec.width + column + start) * spec.in_channels + first + ci
            padding = load(pads, first + ci) if pads is not None else const(0)
            sample = em.bind("sample", tirx.if_then_else(inside, convert(load(data, at), "int32"), padding))
            weight = convert(load(weights, ((o * kh + ky) * kw + kx) * group_in + ci), "int32")
            em.store(acc, 0, load(acc, const(0)) + sample * weight)
            if spec.odd:
                em.store(total, 0, load(total, const(0)) + sample)


def _pad_table(em: Emitter, spec: ConvSpec) -> Buffer | None:
    """The padding value of each channel in a buffer, None where it is 0."""
    if spec.pad_values is None or not any(spec.pad_values):
        return None
    table = em.alloc("pads", "int32", spec.in_channels)
    for channel, value in enumerate(spec.pad_values):
        em.store(table, channel, const(value))
    return table


class Loops(Family):
    """What is left where no other family applies."""

    name = "loops"

    def applies(self, spec: ConvSpec, isa: Isa) -> str:
        return "one value at a time: any geometry"

    def choices(self, spec: ConvSpec, isa: Isa, threads: int, core: Core) -> list[tuple[float, Choice]]:
        values = spec.out_height * spec.out_width * spec.out_channels
        products = spec.kernel[0] * spec.kernel[1] * spec.in_channels // spec.group
        return [(values * (products * LOOP_CYCLES + SLOW), Choice(self.name))]

    def build(
        self, spec: ConvSpec, epilogue: Epilogue, isa: Isa, threads: int, choice: Choice, core: Core
    ) -> tuple[Any, Layout]:
        return conv_loops(spec, epilogue, isa, threads), loops_layout(spec)


FAMILY = Loops()
