"""Exact Winograd convolution 3x3, stride 1, where the ranges prove it (`winograd_forms.exact_forms`).

A task transforms the inputs of a group of tiles into samples of 8 bits (shifted to what the dot product
takes; the start values of the packed weights take that back) or 16, multiplies position by position, and
transforms the products back into outputs for the epilogue. Additions of samples may wrap: what comes out is
proven to fit. Padding is read as zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

from tvm import tirx

from aqd_deploy.kernels.contract.spec import ConvSpec, Epilogue
from aqd_deploy.kernels.cpu.emit import (
    Buffer,
    Emitter,
    Expr,
    Wrapping,
    broadcast,
    const,
    convert,
    lane_sum,
    load,
    vector,
)
from aqd_deploy.kernels.cpu.epilogue.epilogue import Place, bind_epilogue
from aqd_deploy.kernels.cpu.epilogue.nchw_store import BorderTile, declare_borders, stores_borders
from aqd_deploy.kernels.cpu.isa.select import DOTS, WIDE, Dots
from aqd_deploy.kernels.cpu.winograd.plan import WinogradPlan
from aqd_deploy.kernels.cpu.winograd.tiles import Tile, TileList
from aqd_deploy.kernels.winograd.forms import FORMS, SHIFT, WinogradLayout, may_winograd, padded_range
from aqd_deploy.targets.isa import Isa

# Transforms and window sums take channels in vectors of this many at least.
CHANNELS = 16
# Bytes of a cache line, and how many may be prefetched in a step: more would wait for each other.
LINE = 64
MAX_PREFETCHES = 2
# Vectors of a pixel that are copied one by one.
MOST_UNROLLED = 8


def winograd_dots(form: str, isa: Isa) -> Dots | None:
    """The dot product of a form's transformed operands; None where the instruction set has none."""
    if FORMS[form].wide:
        return WIDE.get(isa)
    dots = DOTS[isa]
    bytes_alone = dots.sample_dtype == "int8" or (dots.dot, dots.sample_dtype) == (4, "uint8")
    return dots if bytes_alone else None


def winograd_forms(spec: ConvSpec, isa: Isa) -> dict[str, Dots]:
    """The forms that `spec` can be computed with, each with its dot product; they need whole vectors of input
    channels.
    """
    if not may_winograd(spec) or spec.in_channels % CHANNELS:
        return {}
    candidates = ((form, winograd_dots(form, isa)) for form in spec.winograd)
    return {form: dots for form, dots in candidates if dots is not None}


def winograd_layout(spec: ConvSpec, dots: Dots, plan: WinogradPlan) -> WinogradLayout:
    """The layout of the plan's transformed weights. `spec.input_range` is known."""
    assert spec.input_range is not None
    shifts = FORMS[plan.form].shifts(*padded_range(spec.input_range))
    if dots.sample_dtype == "int8":
        shifts = shifts - SHIFT
    return WinogradLayout(
        plan.form,
        spec.out_channels,
        spec.in_channels,
        dots.lanes,
        dots.dot,
        plan.blocks,
        tuple(int(shift) for shift in shifts),
        spec.odd,
    )


def conv_winograd(spec: ConvSpec, epilogue: Epilogue, dots: Dots, threads: int, plan: WinogradPlan) -> Any:
    """PrimFunc of a convolution with one of its `winograd_forms`; parameters as in `spec.Epilogue`."""
    return _WinogradConv(spec, epilogue, dots, plan).emit("parallel" if threads > 1 else "serial")


class _WinogradConv:
    """Writes one function; the methods go in the order of the work."""

    def __init__(self, spec: ConvSpec, epilogue: Epilogue, dots: Dots, plan: WinogradPlan) -> None:
        self.spec, self.dots, self.plan = spec, dots, plan
        self.form = FORMS[plan.form]
        self.layout = winograd_layout(spec, dots, plan)
        # Samples of a tile.
        self.high, self.wide = self.form.vertical.size, self.form.horizontal.size
        self.outputs = self.form.rows * self.form.columns
        # Bytes are unsigned until they are multiplied: sums of theirs may wrap.
        self.dtype = "int16" if self.form.wide else "uint8"
        self.columns: Buffer | None = None
        full = dots.lanes * dots.dot
        self.lanes = full if full > CHANNELS and spec.in_channels % full == 0 else CHANNELS
        self.tiles = TileList(spec, self.form)
        self.em = Emitter()
        self.data = self.em.parameter(
            "data",
            (spec.height, spec.width, spec.in_channels),
            "int8" if spec.input_signed else "uint8",
        )
        self.weights = self.em.parameter("weights", self.layout.shape, "int8")
        to_borders = stores_borders(epilogue)
        self.bound = bind_epilogue(
            self.em,
            replace(epilogue, stores=()) if to_borders else epilogue,
            spec.out_height,
            spec.out_width,
            spec.out_channels,
            max(1, len(spec.levels)),
        )
        self.borders = declare_borders(self.em, spec) if to_borders else []

    def emit(self, kind: str) -> Any:
        em, plan, lanes = self.em, self.plan, self.dots.lanes
        positions = self.form.positions
        groups = -(-self.tiles.total // plan.group)
        items = self.layout.items
        share = -(-items // plan.parts)
        with em.loop("task", groups * plan.parts, kind) as task:
            part = em.bind("part", task % plan.parts)
            first = em.bind("first", task // plan.parts * plan.group)
            # The last group may be smaller; its sets are whole, and what they hold too much is not stored.
            even = self.tiles.total % plan.group == 0
            count, sets = const(plan.group), const(plan.group // plan.tiles)
            if not even:
                count = em.bind("count", tirx.Min(const(plan.group), self.tiles.total - first))
                sets = em.bind("sets", (count + (plan.tiles - 1)) // plan.tiles)
            tables = self.tiles.tables(em)
            samples = em.alloc("samples", self.dtype, positions * plan.group * self.spec.in_channels)
            sums = em.alloc("window_sums", "int32", plan.group * self.outputs) if self.form.halved else None
            patch = em.alloc("patch", self.dtype, self.high * self.wide * self.spec.in_channels)
            pixel_sums = em.alloc("pixel_sums", "int32", self.high * self.wide) if self.form.halved else None
            with em.loop("t", count) as t:
                self._fill(self.tiles.at(em, first + t, tables), patch, pixel_sums)
                self._transform(patch, t, samples)
                if pixel_sums is not None:
                    self._window_sums(pixel_sums, t, sums)
            products = em.alloc("products", "int32", positions * plan.group * plan.blocks * lanes)
            values = em.alloc("tile", "int32", self.outputs * lanes)
            if self.form.wide:
                self.columns = em.alloc(
                    "columns", "int32", self.form.horizontal.values * self.form.rows * lanes
                )
            size = (self.form.rows, self.form.columns)
            self.border_tile = BorderTile(em, self.borders, self.spec, size, lanes, values)
            of_part = share if plan.parts == 1 else tirx.Min(const(share), items - part * share)
            with em.loop("item", of_part) as offset:
                item = em.bind("item", part * share + offset)
                with em.loop("position", positions) as position, em.loop("set", sets) as s:
                    self._multiply(item * positions + position, position, s, samples, products)
                with em.loop("set", sets) as s, em.loop("j", plan.tiles) as j:
                    t = em.bind("t", s * plan.tiles + j)
                    with em.always() if even else em.when(t < count):
                        if self.bound.streams:
                            self._prefetch_streams(
                                self.tiles.at(em, first + t + 1, tables), item * plan.blocks
                            )
                        tile = self.tiles.at(em, first + t, tables)
                        at = em.bind("at", s * positions * plan.tiles + j)
                        self._gather(tile, t, at, item * plan.blocks, products, sums, values)
        return em.finish()

    def _fill(self, tile: Tile, patch: Buffer, sums: Buffer | None) -> None:
        """Samples of one tile, zeros where it leaves the map, and the sum of every pixel's channels."""
        em, channels, lanes = self.em, self.spec.in_channels, self.lanes
        top = em.bind("top", tile.y - self.spec.pads[0])
        left = em.bind("left", tile.x - self.spec.pads[1])
        with em.loop("py", self.high) as i, em.loop("px", self.wide) as j:
            y, x = em.bind("iy", top + i), em.bind("ix", left + j)
            known = em.bind("known", tirx.all(y >= 0, y < tile.height, x >= 0, x < tile.width))
            at = em.bind("patch_pixel", i * self.wide + j)
            source = em.bind("source", (tile.in_start + y * tile.width + x) * channels)
            with em.when(known):
                total = self._no_sum() if sums is not None else None
                # As a loop LLVM makes it a memcpy, in halves of vectors: loads of whole ones wait for them.
                vectors = channels // lanes
                with em.loop("c", vectors, "unrolled" if vectors <= MOST_UNROLLED else "serial") as c:
                    pixel = load(self.data, source + c * lanes, lanes)
                    sample = em.bind("sample", self._sample(pixel, lanes))
                    em.store(patch, at * channels + c * lanes, sample, lanes)
                    if total is not None:
                        self._add_channels(total, source + c * lanes, sample)
                if total is not None:
                    em.store(sums, at, self._channel_sum(total))
            with em.when(tirx.Not(known)):
                with em.loop("c", channels // lanes) as c:
                    em.store(patch, at * channels + c * lanes, const(0, self.dtype, lanes), lanes)
                if sums is not None:
                    em.store(sums, at, const(0))

    def _sample(self, value: Expr, lanes: int) -> Expr:
        """An activation as it is transformed; in 8 bits the same bits, since sums wrap alike."""
        if self.form.wide:
            return convert(value, self.dtype, lanes)
        return tirx.reinterpret(vector(self.dtype, lanes), value) if self.spec.input_signed else value

    def _transform(self, patch: Buffer, t: Expr, samples: Buffer) -> None:
        em, form, channels, lanes = self.em, self.form, self.spec.in_channels, self.lanes
        tiles = self.plan.tiles
        of_set, j = em.bind("set", t // tiles), em.bind("j", t % tiles)
        to = em.bind("to", (of_set * (self.form.positions * tiles) + j) * channels)
        with em.loop("c", channels // lanes) as block:
            c = em.bind("c", block * lanes)
            tile = [
                [
                    em.bind("d", load(patch, (i * self.wide + j) * channels + c, lanes))
                    for j in range(self.wide)
                ]
                for i in range(self.high)
            ]
            for position, value in enumerate(form.spread(tile, self._bound)):
                at = to + position * (tiles * channels) + c
                shift = self.layout.shifts[position]
                shifted = value + const(shift % 256, self.dtype, lanes) if shift else value
                em.store(samples, at, shifted, lanes)

    def _bound(self, values: list[Any]) -> list[Any]:
        return [self._bound_once("e", value) for value in values]

    def _bound_once(self, name: str, value: Any) -> Any:
        if isinstance(value, Wrapping):
            return Wrapping(self.em.bind(name, value.value), value.lanes)
        return self.em.bind(name, value)

    def _no_sum(self) -> Buffer:
        """Where the channels of a pixel are summed, int32 [lanes]."""
        total = self.em.alloc("total", "int32", self.dots.lanes, "local")
        self.em.store(total, 0, const(0, "int32", self.dots.lanes), self.dots.lanes)
        return total

    def _add_channels(self, total: Buffer, start: Expr, sample: Expr) -> None:
        """Adds the activations from `start` on, whose samples are `sample`."""
        em, dots, lanes = self.em, self.dots, self.lanes
        wide = dots.lanes
        so_far = load(total, const(0), wide)
        if self._sums_samples:
            if self._sums_shifted:
                sample = sample + const(SHIFT, "uint8", lanes)
            sample = tirx.reinterpret(vector("int8", lanes), sample)
            so_far = dots.accumulate(so_far, sample, const(1, "int8", lanes))
        else:
            for part in range(0, lanes, wide):
                so_far = so_far + convert(load(self.data, start + part, wide), "int32", wide)
        em.store(total, 0, so_far, wide)

    def _channel_sum(self, total: Buffer) -> Expr:
        """Sum over the channels of one pixel, whose samples are not all padding."""
        value = lane_sum(load(total, const(0), self.dots.lanes), self.dots.lanes)
        return value - const(SHIFT * self.spec.in_channels) if self._sums_shifted else value

    @property
    def _sums_samples(self) -> bool:
        """Whether channels are summed by dot products, of whole vectors of samples."""
        return self.lanes == self.dots.lanes * self.dots.dot

    @property
    def _sums_shifted(self) -> bool:
        """Whether the samples that are summed are 128 higher: those of signed inputs, where dot products take
        unsigned bytes. Signed bytes hold every activation that fits a form.
        """
        return self._sums_samples and self.spec.input_signed and self.dots.sample_dtype != "int8"

    def _window_sums(self, pixel_sums: Buffer, t: Expr, sums: Buffer) -> None:
        """Sum over the window of every output pixel of the tile, along rows first."""
        em, columns = self.em, self.form.columns
        rows = []
        for i in range(self.high):
            near, middle, far = (load(pixel_sums, const(i * self.wide + j), columns) for j in range(3))
            rows.append(em.bind("row", near + middle + far))
        for y in range(self.form.rows):
            at = t * self.outputs + y * columns
            em.store(sums, at, rows[y] + rows[y + 1] + rows[y + 2], columns)

    def _multiply(
        self, first: Expr, position: Expr, set_index: Expr, samples: Buffer, products: Buffer
    ) -> None:
        """`tiles` × `blocks` accumulators over all input channels; `first` is the position of an item.

        Products lie as [set, position, tile, block, lane]: what `_gather` reads together is near.
        """
        em, plan, dots, layout = self.em, self.plan, self.dots, self.layout
        lanes, vector = dots.lanes, dots.vector_bytes
        row = em.bind("row", (set_index * self.form.positions + position) * plan.tiles)
        accs = [
            [em.alloc("acc", "int32", lanes, "local") for _ in range(plan.blocks)] for _ in range(plan.tiles)
        ]
        item = em.bind("first_item", first)
        for b in range(plan.blocks):
            at = layout.start_offset + (item * plan.blocks + b) * (lanes * 4)
            raw = load(self.weights, at, lanes * 4)
            start = em.bind("start", tirx.reinterpret(f"int32x{lanes}", raw))
            for acc in accs:
                em.store(acc[b], 0, start, lanes)
        weight_base = em.bind("weight_base", item * (layout.steps * plan.blocks * vector))
        sample_base = em.bind("sample_base", row * self.spec.in_channels)
        unrolled = 2 if layout.steps % 2 == 0 else 1
        if dots.sample_steps > 1:
            # Whole loads, since input channels come in `CHANNELS`.
            unrolled = dots.sample_steps
        rounds = layout.steps // unrolled
        item_bytes = layout.steps * plan.blocks * vector
        # The next position's weights come while this one's are used: all lines of them, over all sets.
        lines = -(-item_bytes // (LINE * rounds * (plan.group // plan.tiles)))
        with em.loop("k", rounds) as k_round:
            for i in range(lines if lines <= MAX_PREFETCHES * unrolled else 0):
                line = (set_index * rounds + k_round) * lines + i
                em.prefetch(self.weights, weight_base + item_bytes + line * LINE, level=2)
            words = []
            if dots.sample_steps > 1:
                for j in range(plan.tiles):
                    at = sample_base + (j * self.spec.in_channels + k_round * (unrolled * dots.dot))
                    words.append(em.bind("s", dots.sample_words(samples, at)))
            for offset in range(unrolled):
                k = k_round * unrolled + offset
                weights = [
                    em.bind("w", dots.weight(self.weights, weight_base + (k * plan.blocks + b) * vector))
                    for b in range(plan.blocks)
                ]
                for j, acc_row in enumerate(accs):
                    if words:
                        sample = dots.sample_of(words[j], offset)
                    else:
                        at = sample_base + (j * self.spec.in_channels + k * dots.dot)
                        sample = em.bind("s", dots.sample(samples, at))
                    for acc, weight in zip(acc_row, weights, strict=True):
                        em.store(acc, 0, dots.accumulate(load(acc, const(0), lanes), sample, weight), lanes)
        for j, acc_row in enumerate(accs):
            for b, acc in enumerate(acc_row):
                at = ((row + j) * plan.blocks + b) * lanes
                em.store(products, at, load(acc, const(0), lanes), lanes)

    def _prefetch_streams(self, tile: Tile, block: Expr) -> None:
        """Asks for the streams at a tile."""
        for y, x, b in product(range(self.form.rows), range(self.form.columns), range(self.plan.blocks)):
            self.bound.prefetch(self.em, self._place(tile, y, x), (block + b) * self.dots.lanes)

    def _gather(
        self,
        tile: Tile,
        t: Expr,
        at: Expr,
        block: Expr,
        products: Buffer,
        sums: Buffer | None,
        values: Buffer,
    ) -> None:
        """Products of one tile → convolution results → epilogue; `at` is the tile's first product."""
        em, plan, form, lanes = self.em, self.plan, self.form, self.dots.lanes
        with em.loop("b", plan.blocks) as b:
            if self.borders:
                self.border_tile.prefetch(self._level(tile), (tile.y, tile.x), (block + b) * lanes)

            def at_position(position: int) -> Any:
                index = ((at + position * plan.tiles) * plan.blocks + b) * lanes
                value = em.bind("m", load(products, index, lanes))
                return Wrapping(value, lanes) if form.wide else value

            columns = form.gather_columns(at_position, self._bound)
            if self.columns is not None:
                columns = self._by_memory(columns)

            def row(y: int) -> list[Expr]:
                found: list[Expr] = []
                for value in form.gather_row([column[y] for column in columns]):
                    result = self._divided(value, 2 if form.halved else 1)
                    if sums is not None:
                        window = load(sums, t * self.outputs + y * form.columns + len(found))
                        result = result + broadcast(window, lanes)
                    found.append(em.bind("r", result))
                return found

            self._finish(tile, em.bind("block", block + b), row, values)

    def _by_memory(self, columns: list[list[Any]]) -> list[list[Any]]:
        """`columns`, loaded from where they are stored first. The simplifier repeats sums where they are
        used, but not loads; sums of sums of many products take it seconds.
        """
        em, lanes, rows = self.em, self.dots.lanes, self.form.rows
        for j, column in enumerate(columns):
            for y, value in enumerate(column):
                plain = value.value if isinstance(value, Wrapping) else value
                em.store(self.columns, (j * rows + y) * lanes, plain, lanes)

        def loaded(index: int) -> Any:
            value = em.bind("e", load(self.columns, const(index * lanes), lanes))
            return Wrapping(value, lanes) if self.form.wide else value

        return [[loaded(j * rows + y) for y in range(rows)] for j in range(len(columns))]

    def _divided(self, value: Any, factor: int) -> Expr:
        """value·factor/divisor, which is exact: an odd divisor is a product with its inverse modulo 2^32, the
        rest a shift.
        """
        lanes, divisor = self.dots.lanes, self.form.divisor // factor
        even = divisor & -divisor
        if even != divisor:
            value = value if isinstance(value, Wrapping) else Wrapping(value, lanes)
            value = value * pow(divisor // even, -1, 2**32)
        value = value.value if isinstance(value, Wrapping) else value
        return tirx.shift_right(value, const(even.bit_length() - 1, "int32", lanes))

    def _finish(self, tile: Tile, block: Expr, row: Callable[[int], list[Expr]], values: Buffer) -> None:
        """Epilogue of one block of a tile's outputs, which `row` computes from top to bottom; channels that
        do not fill a vector go one by one.
        """
        em, spec, lanes = self.em, self.spec, self.dots.lanes
        full_blocks, rest = divmod(spec.out_channels, lanes)
        channel = em.bind("channel", block * lanes)
        if full_blocks:
            padded = self.layout.channels != spec.out_channels
            with em.when(block < full_blocks) if padded else em.always():
                self._store(tile, channel, row)
        if rest:
            with em.when(tirx.EQ(block, full_blocks)):
                for o, value in enumerate(value for y in range(self.form.rows) for value in row(y)):
                    em.store(values, o * lanes, value, lanes)
                with em.loop("o", self.outputs) as turn, em.loop("lane", rest) as lane:
                    o = em.bind("o", self.outputs - 1 - turn)
                    value = em.bind("v", load(values, o * lanes + lane))
                    self._store_one(
                        tile, (o // self.form.columns, o % self.form.columns), channel + lane, value
                    )

    def _store(self, tile: Tile, channel: Expr, row: Callable[[int], list[Expr]]) -> None:
        """One block of a tile whose channels all exist; the last pixels first, as `_place` needs it. A row is
        stored before the next is computed: all outputs at once would not fit registers.
        """
        em, lanes = self.em, self.dots.lanes
        if not self.borders:
            for y in reversed(range(self.form.rows)):
                for x, value in reversed(list(enumerate(row(y)))):
                    self.bound.emit(em, value, self._place(tile, y, x), channel, lanes)
            return
        stepped = [
            self.bound.stepped(em, value, self._place(tile, y, x), channel, lanes)
            for y in range(self.form.rows)
            for x, value in enumerate(row(y))
        ]
        self.border_tile.store(stepped, self._level(tile), (tile.y, tile.x), channel)

    def _store_one(self, tile: Tile, at: tuple[Expr, Expr], channel: Expr, value: Expr) -> None:
        """A single channel of a tile's pixel `at`."""
        place = self._place(tile, *at)
        if not self.borders:
            self.bound.emit(self.em, value, place, channel, 1)
            return
        value = self.bound.stepped(self.em, value, place, channel, 1)
        position = (tile.y + at[0], tile.x + at[1])
        self.border_tile.store_one(value, self._level(tile), position, channel)

    @staticmethod
    def _level(tile: Tile) -> Expr:
        return const(0) if tile.level is None else tile.level

    def _place(self, tile: Tile, py: int | Expr, px: int | Expr) -> Place:
        """An output pixel of a tile; one that lies outside is the last one inside in its place.

        The last pixels are stored before the first ones, so what is stored at last is right.
        """
        em = self.em
        y, x = tile.y + py, tile.x + px
        if self.tiles.leaves:
            y, x = tirx.Min(y, tile.out_height - 1), tirx.Min(x, tile.out_width - 1)
        y, x = em.bind("oy", y), em.bind("ox", x)
        return Place(em.bind("pixel", tile.out_start + y * tile.out_width + x), y, x, tile.level)
