"""Convolution with few output channels: the lanes of a dot product lie along the input channels.

A box or centre-ness output has one to eight channels, which would leave most lanes of register tiles idle.
Here a dot product takes a whole vector of neighbouring inputs of one pixel and one output channel; its lanes
are added up once an output value. Odd weights 2w + 1 are 2·acc + the window's sum, one more channel of ones.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tvm import tirx

from aqd_deploy.kernels.contract.caches import Core
from aqd_deploy.kernels.contract.choice import Choice
from aqd_deploy.kernels.contract.kernel import Layout
from aqd_deploy.kernels.contract.spec import ConvSpec, Epilogue
from aqd_deploy.kernels.cpu.conv.family import Family
from aqd_deploy.kernels.cpu.conv.padded_rows import make_strip
from aqd_deploy.kernels.cpu.emit import Buffer, Emitter, Expr, const, load
from aqd_deploy.kernels.cpu.epilogue.epilogue import BoundEpilogue, Place, bind_epilogue
from aqd_deploy.kernels.cpu.epilogue.nchw_store import declare_borders, stores_borders
from aqd_deploy.kernels.cpu.isa.dot_product import DotProduct
from aqd_deploy.kernels.cpu.isa.select import vector_dots
from aqd_deploy.kernels.storage.layout import WeightLayout
from aqd_deploy.targets.isa import Isa

MOST_CHANNELS = 8
# Accumulators of a register tile: enough to hide the latency of a dot product.
ACCUMULATORS = 12
# Output rows of a task, which share one padded copy of input rows.
ROWS = 8


def is_few(spec: ConvSpec, dots: DotProduct | None) -> bool:
    """At most eight output channels, whole vectors of unsigned inputs that are samples as they are, one
    group.
    """
    return (
        dots is not None
        and spec.out_channels <= MOST_CHANNELS
        and spec.group == 1
        and spec.in_channels % dots.vector_bytes == 0
        and not spec.input_signed
        and not dots.converts(spec)
    )


def few_layout(spec: ConvSpec) -> WeightLayout:
    """Output channel by output channel, [O, kh, kw·I]."""
    return WeightLayout(spec.out_channels, spec.in_channels, spec.kernel, lanes=1, dot=1)


def few_cycles(spec: ConvSpec, dots: DotProduct, threads: int) -> float:
    """Estimated cycles on `threads` threads."""
    products = spec.kernel[0] * spec.kernel[1] * spec.in_channels // dots.vector_bytes
    pixel = (spec.out_channels + spec.odd) * (0.6 * products + 8) + 1.25 * products
    return spec.out_height * spec.out_width * pixel / threads


def conv_few(spec: ConvSpec, epilogue: Epilogue, dots: DotProduct, threads: int) -> Any:
    """PrimFunc of a convolution that `is_few`; parameters as in `spec.Epilogue`."""
    return _FewConv(spec, epilogue, dots).emit("parallel" if threads > 1 else "serial")


class _FewConv:
    """Writes one function."""

    def __init__(self, spec: ConvSpec, epilogue: Epilogue, dots: DotProduct) -> None:
        self.spec, self.dots = spec, dots
        self.em = Emitter()
        self.data = self.em.parameter("data", (spec.height, spec.width, spec.in_channels), "uint8")
        self.weights = self.em.parameter("weights", few_layout(spec).shape, "int8")
        self.to_borders = stores_borders(epilogue)
        self.bound: BoundEpilogue = bind_epilogue(
            self.em,
            replace(epilogue, stores=()) if self.to_borders else epilogue,
            dots.isa,
            spec.out_height,
            spec.out_width,
            spec.out_channels,
            max(1, len(spec.levels)),
        )
        self.borders = declare_borders(self.em, spec) if self.to_borders else []
        # One sum a channel, and the window's behind them.
        self.sums = spec.out_channels + spec.odd

    def emit(self, kind: str) -> Any:
        em = self.em
        for level, m in enumerate(self.spec.maps):
            one = self.spec.alone(m)
            rows = min(ROWS, m.out_height)
            pixels = min(max(1, ACCUMULATORS // self.sums), m.out_width)
            with em.loop("strip", -(-m.out_height // rows), kind) as index:
                top = em.bind("top", tirx.Min(index * rows, const(m.out_height - rows)))
                strip = make_strip(em, one, self.dots, self.data, top, rows, any(one.pads), 0, m.in_start)
                totals = em.alloc("totals", "int32", pixels * self.sums)
                with em.loop("y", rows) as y, em.loop("tx", -(-m.out_width // pixels)) as tx:
                    x = em.bind("x", tirx.Min(tx * pixels, const(m.out_width - pixels)))
                    row = strip.origin + y * one.strides[0] * strip.row_stride
                    origin = em.bind("origin", row + x * (one.strides[1] * one.in_channels))
                    self._reduce(strip.samples, strip.row_stride, origin, pixels, totals)
                    with em.loop("p", pixels) as p, em.loop("o", self.spec.out_channels) as o:
                        self._finish(level, top + y, x + p, p, o, totals)
        return em.finish()

    def _reduce(self, samples: Buffer, line: int, origin: Expr, pixels: int, totals: Buffer) -> None:
        """Sums of every channel of `pixels` neighbours → totals [pixel, channel]."""
        em, spec, dots = self.em, self.spec, self.dots
        lanes, vector = dots.lanes, dots.vector_bytes
        accs = [[em.alloc("acc", "int32", lanes, "local") for _ in range(self.sums)] for _ in range(pixels)]
        for accs_of_pixel in accs:
            for acc in accs_of_pixel:
                em.store(acc, 0, const(0, "int32", lanes), lanes)
        kh, kw = spec.kernel
        per_channel = kh * kw * spec.in_channels
        with em.loop("ky", kh) as ky, em.loop("kx", kw) as kx, em.loop("c", spec.in_channels // vector) as c:
            tap = em.bind("tap", (ky * kw + kx) * spec.in_channels + c * vector)
            weights = [
                em.bind("w", dots.weight(self.weights, tap + o * per_channel))
                for o in range(spec.out_channels)
            ]
            if spec.odd:
                weights.append(const(1, "int8", vector))
            place = ky * spec.dilations[0] * line + kx * (spec.dilations[1] * spec.in_channels) + c * vector
            first = em.bind("first", origin + place)
            for p, accs_of_pixel in enumerate(accs):
                at = first + p * spec.strides[1] * spec.in_channels
                sample = em.bind("s", tirx.reinterpret(f"int8x{vector}", load(samples, at, vector)))
                for acc, weight in zip(accs_of_pixel, weights, strict=True):
                    em.store(acc, 0, dots.accumulate(load(acc, const(0), lanes), sample, weight), lanes)
        for p, accs_of_pixel in enumerate(accs):
            for o, acc in enumerate(accs_of_pixel):
                total = tirx.call_llvm_pure_intrin(
                    "int32", f"llvm.vector.reduce.add.v{lanes}i32", load(acc, const(0), lanes)
                )
                em.store(totals, p * self.sums + o, total)

    def _finish(self, level: int, y: Expr, x: Expr, p: Expr, o: Expr, totals: Buffer) -> None:
        em, m, channels = self.em, self.spec.maps[level], self.spec.out_channels
        value = load(totals, p * self.sums + o)
        if self.spec.odd:
            value = value * 2 + load(totals, p * self.sums + channels)
        inside = em.bind("inside", y * m.out_width + x)
        stacked = const(level) if self.spec.levels else None
        place = Place(em.bind("pixel", inside + m.out_start), y, x, stacked)
        value = em.bind("v", value)
        if not self.to_borders:
            self.bound.emit(em, value, place, o, 1)
            return
        value = self.bound.stepped(em, value, place, o, 1)
        em.store(self.borders[level], o * (m.out_height * m.out_width) + inside, value)


class FewChannels(Family):
    """Has nothing to tune."""

    name = "few"

    def applies(self, spec: ConvSpec, isa: Isa) -> str:
        if not is_few(spec, vector_dots(spec, isa)):
            return ""
        return f"{spec.out_channels} output channels: dot products along the input channels"

    def choices(self, spec: ConvSpec, isa: Isa, threads: int, core: Core) -> list[tuple[float, Choice]]:
        return [(few_cycles(spec, self._dots(spec, isa), threads), Choice(self.name))]

    def build(
        self, spec: ConvSpec, epilogue: Epilogue, isa: Isa, threads: int, choice: Choice, core: Core
    ) -> tuple[Any, Layout]:
        return conv_few(spec, epilogue, self._dots(spec, isa), threads), few_layout(spec)

    def product(self, spec: ConvSpec, isa: Isa, choice: Choice) -> DotProduct | None:
        return vector_dots(spec, isa)

    def stores_borders(self, spec: ConvSpec, isa: Isa, choice: Choice) -> bool:
        return True

    def _dots(self, spec: ConvSpec, isa: Isa) -> DotProduct:
        dots = vector_dots(spec, isa)
        assert dots is not None
        return dots


FAMILY = FewChannels()
