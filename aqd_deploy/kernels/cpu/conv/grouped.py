"""Convolutions whose groups do not fill vectors of output channels: each lane takes the inputs of its group.

A vector holds `lanes` neighbouring output channels, of one group or of several, so no lane is idle and the
epilogue stays whole vectors. Where the dense convolution broadcasts one word of inputs, here the word of lane
l comes from the group of l (`group_samples`). Weights need nothing special: the packed layout holds the
inputs of an output channel, whatever its group.

Odd weights 2w + 1 take a second accumulator a pixel, of the products with ones: 2·Σ x·w + Σ x.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

from tvm import tirx

from aqd_deploy.kernels.contract.caches import Core
from aqd_deploy.kernels.contract.choice import Choice
from aqd_deploy.kernels.contract.kernel import Layout
from aqd_deploy.kernels.contract.spec import ConvSpec, Epilogue, Map
from aqd_deploy.kernels.cpu.conv.blocked import can_block
from aqd_deploy.kernels.cpu.conv.blocking import LOADS_PER_CYCLE, STEP_CYCLES, STORE_CYCLES, most_strip_bytes
from aqd_deploy.kernels.cpu.conv.depthwise import is_depthwise
from aqd_deploy.kernels.cpu.conv.family import Family
from aqd_deploy.kernels.cpu.conv.group_samples import GroupSamples
from aqd_deploy.kernels.cpu.conv.maps import conv_maps
from aqd_deploy.kernels.cpu.conv.padded_rows import Strip, make_strip
from aqd_deploy.kernels.cpu.conv.partial_sums import chunk_loops, chunks
from aqd_deploy.kernels.cpu.emit import Buffer, Emitter, Expr, const, load
from aqd_deploy.kernels.cpu.epilogue.epilogue import BoundEpilogue, Place
from aqd_deploy.kernels.cpu.isa.dot_product import DotProduct
from aqd_deploy.kernels.cpu.isa.select import dots_for
from aqd_deploy.kernels.storage.layout import WeightLayout
from aqd_deploy.targets.isa import Isa

# Pixels of a register tile that may be chosen: enough to hide the latency of a product.
COLUMNS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12)


@dataclass(frozen=True)
class GroupedPlan:
    """A task computes `rows` output rows; a register tile is `columns` pixels of one vector of channels."""

    rows: int
    columns: int

    def choice(self) -> Choice:
        """The plan as a choice of the family `grouped`."""
        return Choice.of("grouped", rows=self.rows, columns=self.columns)


def grouped_layout(spec: ConvSpec, dots: DotProduct) -> WeightLayout:
    """Vectors of output channels; the taps of a kernel row are segments, for groups tear them apart."""
    group_in = spec.in_channels // spec.group
    return WeightLayout(
        spec.out_channels, group_in, spec.kernel, dots.lanes, dots.dot, dense=spec.kernel[1] == 1
    )


def grouped_plans(spec: ConvSpec, dots: DotProduct, threads: int) -> list[tuple[float, GroupedPlan]]:
    """Every plan for the largest map with its estimated cycles, the best first."""
    layout = grouped_layout(spec, dots)
    main = spec.alone(max(spec.maps, key=lambda m: m.out_height * m.out_width))
    samples = GroupSamples.of(spec, dots)
    accumulators = (dots.registers - dots.spare_registers - samples.registers) // dots.width - 1
    most = max(1, accumulators // (2 if spec.odd else 1))
    products = 2 if spec.odd else 1
    found = []
    for rows in sorted({-(-main.out_height // n) for n in range(1, main.out_height + 1)}, reverse=True):
        strip_bytes = _strip_bytes(main, dots, rows)
        if rows > 1 and strip_bytes > most_strip_bytes(dots.core):
            continue
        tasks = -(-main.out_height // rows)
        for columns in COLUMNS:
            if columns > min(most, main.out_width):
                continue
            step = columns * max(
                dots.product_cycles * products + samples.uops / 2, samples.loads / LOADS_PER_CYCLE
            )
            tile = prod(layout.shape[1:4]) * (step + STEP_CYCLES + 1) + columns * STORE_CYCLES
            task = rows * -(-main.out_width // columns) * layout.blocks * tile + strip_bytes
            found.append((-(-tasks // threads) * task, GroupedPlan(rows, columns)))
    share = spec.out_height * spec.out_width / (main.out_height * main.out_width)
    return sorted(((cycles * share, plan) for cycles, plan in found), key=lambda entry: entry[0])


def _strip_bytes(spec: ConvSpec, dots: DotProduct, rows: int) -> int:
    in_rows = (rows - 1) * spec.strides[0] + (spec.kernel[0] - 1) * spec.dilations[0] + 1
    columns = spec.width + spec.pads[1] + spec.pads[3]
    return in_rows * columns * spec.in_channels * dots.sample_bytes


def conv_grouped(
    spec: ConvSpec, epilogue: Epilogue, dots: DotProduct, threads: int, plan: GroupedPlan
) -> Any:
    """PrimFunc of a convolution with groups; parameters as in `spec.Epilogue`."""
    layout = grouped_layout(spec, dots)

    def code(em: Emitter, place: Map, weights: Buffer, bound: BoundEpilogue) -> _MapConv:
        return _MapConv(em, spec, place, dots, layout, plan, weights, bound)

    return conv_maps(spec, epilogue, dots.isa, layout, threads, code)


class _MapConv:
    """Writes the code of one map."""

    def __init__(
        self,
        em: Emitter,
        spec: ConvSpec,
        place: Map,
        dots: DotProduct,
        layout: WeightLayout,
        plan: GroupedPlan,
        weights: Buffer,
        bound: BoundEpilogue,
    ) -> None:
        self.em, self.map, self.dots, self.layout = em, place, dots, layout
        self.spec = spec.alone(place)
        self.weights, self.bound = weights, bound
        self.samples = GroupSamples.of(spec, dots)
        self.rows = min(plan.rows, self.spec.out_height)
        self.columns = min(plan.columns, self.spec.out_width)
        self.tasks = -(-self.spec.out_height // self.rows)
        # Weights of one vector of channels.
        self.block_stride = prod(layout.shape[1:])
        # Two sums a value with odd weights.
        self.sums = 2 if spec.odd else 1

    def emit(self, task: Expr, data: Buffer, level: Expr | None) -> None:
        """One task: `rows` rows of all channels, tile by tile of pixels so that whole pixels are written."""
        em, spec, lanes = self.em, self.spec, self.dots.lanes
        top = em.bind("top", tirx.Min(task * self.rows, const(spec.out_height - self.rows)))
        slack = self.samples.overread
        strip = make_strip(em, spec, self.dots, data, top, self.rows, True, slack, self.map.in_start)
        start = self._start() if self.dots.offset else None
        ones = self._ones() if spec.odd else None
        values = em.alloc("tile", "int32", self.sums * self.columns * lanes)
        with (
            em.loop("y", self.rows) as y,
            em.loop("tx", -(-spec.out_width // self.columns)) as tx,
            em.loop("block", self.layout.blocks) as block,
        ):
            x = em.bind("x", tirx.Min(tx * self.columns, const(spec.out_width - self.columns)))
            self._reduce(strip, y, x, block, ones, start, values)
            with em.loop("px", self.columns) as px:
                row = em.bind("row", top + y)
                column = em.bind("column", x + px)
                pixel = row * spec.out_width + (column + self.map.out_start)
                self._finish(Place(pixel, row, column, level), px, block, values)

    def _start(self) -> Buffer:
        """−offset·Σ weights of every output channel: what the shifted samples add too much."""
        em, dots, lanes = self.em, self.dots, self.dots.lanes
        start = em.alloc("start", "int32", self.layout.blocks * lanes)
        one = dots.ones(dots.dot)
        acc = em.alloc("sum_acc", "int32", lanes, "local")
        with em.loop("sum_block", self.layout.blocks) as block:
            em.store(acc, 0, const(0, "int32", lanes), lanes)
            with em.loop("sum_step", self.block_stride // dots.vector_bytes) as k:
                at = block * self.block_stride + k * dots.vector_bytes
                weight = dots.weight(self.weights, at)
                em.store(acc, 0, dots.accumulate(load(acc, const(0), lanes), one, weight), lanes)
            total = load(acc, const(0), lanes) * const(-self.dots.offset, "int32", lanes)
            em.store(start, block * lanes, total, lanes)
        return start

    def _ones(self) -> list[Expr]:
        """The ones of a whole step and of the last, whose surplus samples belong to other groups."""
        rest = self.layout.segment_length - (self.layout.steps - 1) * self.dots.dot
        return [self.dots.ones(self.dots.dot), self.dots.ones(rest)]

    def _reduce(
        self,
        strip: Strip,
        y: Expr,
        x: Expr,
        block: Expr,
        ones: list[Expr] | None,
        start: Buffer | None,
        values: Buffer,
    ) -> None:
        """The sums of one tile, left in `values` [sum, pixel, lane]."""
        em, dots, layout, lanes = self.em, self.dots, self.layout, self.dots.lanes
        narrow = dots.narrow
        dtype, wide = narrow.partial if narrow else ("int32", lanes)
        count = self.sums * self.columns
        lanes_of = self.samples.bind(em, block)
        once = chunks(layout, dots).count == 1
        if not once:
            for i in range(count):
                em.store(values, i * lanes, self._first(start, block, i), lanes)
        with chunk_loops(em, layout, dots) as runs:
            accs = [em.alloc("acc", dtype, wide, "local") for _ in range(count)]
            for acc in accs:
                em.store(acc, 0, const(0, dtype, wide), wide)
            with runs() as (ky, segment, first, steps), em.loop("k", steps) as step:
                k = em.bind("k", first + step)
                last = k == layout.steps - 1
                for i, sample, weight in self._products(strip, lanes_of, (y, x), block, (ky, segment, k)):
                    self._add(accs[i], sample, weight)
                    if ones is not None:
                        pad = tirx.Select(last, ones[1], ones[0]) if layout.steps > 1 else ones[1]
                        self._add(accs[self.columns + i], sample, pad)
            for i, acc in enumerate(accs):
                so_far = self._first(start, block, i) if once else load(values, const(i * lanes), lanes)
                value = load(acc, const(0), wide)
                total = narrow.widen(so_far, value) if narrow else so_far + value
                em.store(values, i * lanes, total, lanes)

    def _add(self, acc: Buffer, sample: Expr, weight: Expr) -> None:
        if narrow := self.dots.narrow:
            wide, add = narrow.partial[1], narrow.add_partial
        else:
            wide, add = self.dots.lanes, self.dots.accumulate
        self.em.store(acc, 0, add(load(acc, const(0), wide), sample, weight), wide)

    def _first(self, start: Buffer | None, block: Expr, i: int) -> Expr:
        """What sum `i` of a tile begins with."""
        lanes = self.dots.lanes
        if i >= self.columns:
            return const(-self.dots.offset * self.layout.reduction, "int32", lanes)
        return const(0, "int32", lanes) if start is None else load(start, block * lanes, lanes)

    def _products(
        self,
        strip: Strip,
        lanes_of: Any,
        pixel: tuple[Expr, Expr],
        block: Expr,
        place: tuple[Expr, Expr, Expr],
    ) -> Iterator[tuple[int, Expr, Expr]]:
        """(pixel of the tile, samples, weights) of one step."""
        em, spec, dots, layout = self.em, self.spec, self.dots, self.layout
        (y, x), (ky, segment, k) = pixel, place
        row = y * spec.strides[0] + ky * spec.dilations[0]
        column = x * spec.strides[1] + segment * spec.dilations[1]
        base = em.bind(
            "sample_base",
            strip.origin + row * strip.row_stride + column * spec.in_channels + k * dots.dot,
        )
        step = (ky * layout.segments + segment) * layout.steps + k
        at = block * self.block_stride + step * dots.vector_bytes
        weight = em.bind("w", dots.weight(self.weights, at))
        for i in range(self.columns):
            offset = i * spec.strides[1] * spec.in_channels
            yield i, em.bind("s", lanes_of(strip.samples, base + offset)), weight

    def _finish(self, place: Place, px: Expr, block: Expr, values: Buffer) -> None:
        """Epilogue of one vector of one pixel; channels that do not fill it go one by one."""
        em, lanes = self.em, self.dots.lanes
        full, rest = divmod(self.spec.out_channels, lanes)

        def emit(channel: Expr, lane: Expr, count: int) -> None:
            value = load(values, px * lanes + lane, count)
            if self.spec.odd:
                total = load(values, (px + self.columns) * lanes + lane, count)
                value = value * const(2, "int32", count) + total
            self.bound.emit(em, em.bind("v", value), place, channel, count)

        if full:
            with em.when(block < full) if rest else em.always():
                emit(block * lanes, const(0), lanes)
        if rest:
            with em.when(block >= full), em.loop("lane", rest) as lane:
                emit(block * lanes + lane, lane, 1)


class Grouped(Family):
    """Groups that neither register tiles nor the depthwise kernel take."""

    name = "grouped"

    def applies(self, spec: ConvSpec, isa: Isa) -> str:
        dots = dots_for(spec, isa)
        if spec.group == 1 or is_depthwise(spec) or can_block(spec, dots):
            return ""
        size = spec.out_channels // spec.group
        return f"{size} output channels a group: lanes take the inputs of their groups; {dots.reason}"

    def choices(self, spec: ConvSpec, isa: Isa, threads: int, core: Core) -> list[tuple[float, Choice]]:
        plans = grouped_plans(spec, dots_for(spec, isa, core), threads)
        return [(cycles, plan.choice()) for cycles, plan in plans]

    def build(
        self, spec: ConvSpec, epilogue: Epilogue, isa: Isa, threads: int, choice: Choice, core: Core
    ) -> tuple[Any, Layout]:
        dots, plan = dots_for(spec, isa, core), GroupedPlan(**dict(choice.parameters))
        return conv_grouped(spec, epilogue, dots, threads, plan), grouped_layout(spec, dots)

    def product(self, spec: ConvSpec, isa: Isa, choice: Choice) -> DotProduct | None:
        return dots_for(spec, isa)


FAMILY = Grouped()
