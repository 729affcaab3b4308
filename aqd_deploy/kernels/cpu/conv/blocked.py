"""The direct convolution: register tiles of pixels × output channels over packed weights, on a padded copy of
rows.

Each task makes a padded copy of the input rows it needs (only where there is padding, or the samples must
change their type), so the reduction has no border cases: for kernel row, segment and step, `blocks` weight
vectors meet one broadcast sample a pixel. int8 input becomes uint8 by adding an offset; the accumulators
start at −offset·Σ weights in return. Odd weights 2w+1 are 2·acc + the sum of the window, which is computed
once a pixel.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from typing import Any

from tvm import tirx

from aqd_deploy.kernels.contract.spec import ConvSpec, Epilogue
from aqd_deploy.kernels.cpu.conv.blocking import Blocking, choose_blocking
from aqd_deploy.kernels.cpu.conv.level_blocking import Batch, largest, level_batches
from aqd_deploy.kernels.cpu.conv.padded_rows import PaddedRows, needs_copy, overread, padded_rows
from aqd_deploy.kernels.cpu.conv.partial_sums import chunk_loops, chunks
from aqd_deploy.kernels.cpu.conv.window_sums import window_sums
from aqd_deploy.kernels.cpu.emit import Buffer, Emitter, Expr, const, load
from aqd_deploy.kernels.cpu.epilogue.epilogue import BoundEpilogue, Place, bind_epilogue
from aqd_deploy.kernels.cpu.epilogue.nchw_store import BorderStage, declare_borders, stores_borders
from aqd_deploy.kernels.cpu.isa.dot_product import DotProduct, NarrowSums
from aqd_deploy.kernels.storage.layout import WeightLayout

# An accumulator, and the samples and weights of the products that are added to it.
Products = tuple[Buffer, list[Expr], list[Expr]]
# How many steps ahead weights are asked for, and the products a step must have to hide the asking.
PREFETCH_STEPS = 8
PREFETCH_PRODUCTS = 12


def blocked_layout(spec: ConvSpec, dots: DotProduct) -> WeightLayout:
    """Blocks of output channels; kernel rows are dense unless dilation or groups tear their samples apart."""
    dense = spec.kernel[1] == 1 or (spec.dilations[1] == 1 and spec.group == 1)
    group_in = spec.in_channels // spec.group
    return WeightLayout(spec.out_channels, group_in, spec.kernel, dots.lanes, dots.dot, dense)


def can_block(spec: ConvSpec, dots: DotProduct) -> bool:
    """Groups must fill whole vectors of output channels."""
    return spec.group == 1 or (not spec.odd and (spec.out_channels // spec.group) % dots.lanes == 0)


def conv_blocked(
    spec: ConvSpec, epilogue: Epilogue, dots: DotProduct, threads: int, blocking: Blocking | None = None
) -> Any:
    """PrimFunc of a convolution that `can_block`; parameters as in `spec.Epilogue`."""
    layout = blocked_layout(spec, dots)
    copies = needs_copy(spec, layout, dots)
    plan = blocking or choose_blocking(spec.alone(spec.maps[largest(spec)]), layout, dots, threads, copies)
    function = ConvFunction(spec, epilogue, dots, layout)
    if spec.levels:
        batches = level_batches(spec, layout, dots, threads, copies, plan)
    else:
        batches = [Batch((0,), (plan,))]
    kind = "parallel" if threads > 1 else "serial"
    em = function.em
    if len(batches) == 1:
        with em.loop("task", batches[0].tasks, kind) as task:
            _emit_task(function, batches[0], copies, task)
        return em.finish()
    # Tasks of different batches take different times: every worker does its share of each batch.
    with em.loop("worker", threads, kind) as worker:
        for batch in batches:
            begin = worker * batch.tasks // threads
            with em.loop("turn", (worker + 1) * batch.tasks // threads - begin) as turn:
                _emit_task(function, batch, copies, em.bind("task", begin + turn))
    return em.finish()


class ConvFunction:
    """The function under construction: its parameters, shared by the code of all maps."""

    def __init__(self, spec: ConvSpec, epilogue: Epilogue, dots: DotProduct, layout: WeightLayout) -> None:
        self.spec, self.dots, self.layout = spec, dots, layout
        self.em = Emitter()
        self.data = self.em.parameter(
            "data",
            (spec.height, spec.width, spec.in_channels),
            "int8" if spec.input_signed else "uint8",
        )
        self.weights = self.em.parameter("weights", layout.shape, "int8")
        to_borders = stores_borders(epilogue)
        self.bound: BoundEpilogue = bind_epilogue(
            self.em,
            replace(epilogue, stores=()) if to_borders else epilogue,
            dots.isa,
            spec.out_height,
            spec.out_width,
            spec.out_channels,
            max(1, len(spec.levels)),
        )
        self.borders = declare_borders(self.em, spec) if to_borders else []


def _emit_task(function: ConvFunction, batch: Batch, copies: bool, task: Expr) -> None:
    """A strip of rows (all of them for each map of a larger batch) times a part of the channels."""
    em, plan = function.em, batch.plans[0]
    strip_index = em.bind("strip", task // plan.parts)
    part = em.bind("part", task % plan.parts)
    convs = [
        MapConv(function, level, plan, copies, _first_row(function, level, plan, strip_index))
        for level, plan in zip(batch.members, batch.plans, strict=True)
    ]
    emit_tiles(function, convs, part)


def _first_row(function: ConvFunction, level: int, plan: Blocking, strip_index: Expr) -> Expr:
    """Where a strip begins; the last one is shifted back inside."""
    return tirx.Min(strip_index * plan.rows, const(function.spec.maps[level].out_height - plan.rows))


def emit_tiles(function: ConvFunction, convs: list[MapConv], part: Expr) -> None:
    """Every tile of the strips of `convs` in a part of the channels, with its epilogue."""
    em, plan = function.em, convs[0].plan
    values = em.alloc("tile", "int32", max(c.plan.pixels for c in convs) * plan.blocks * function.dots.lanes)
    first_conv = convs[0]
    # The sums of signed weights are made once a block of channels, so blocks stay outside there.
    if plan.pixels_first and not first_conv.shifted and not function.borders:
        with first_conv.tiles() as (y, x), first_conv.channels(part) as (block, first):
            first_conv.tile(y, x, block, first, None, values)
        return
    with first_conv.channels(part) as (block, first):
        start = first_conv.weight_sums(block) if first_conv.shifted else None
        for conv in convs:
            with conv.tile_rows() as y:
                with conv.tile_columns() as x:
                    conv.tile(y, x, block, first, start, values)
                if conv.stage is not None:
                    conv.stage.flush(conv.top + y, block)


class MapConv:
    """Writes the code of one map in one task, which computes `plan.rows` rows from `top` on; the methods go
    from the outermost loop inwards.
    """

    def __init__(self, function: ConvFunction, level: int, plan: Blocking, copies: bool, top: Expr) -> None:
        self.em, self.dots, self.layout = function.em, function.dots, function.layout
        self.weights, self.bound = function.weights, function.bound
        self.map = function.spec.maps[level]
        self.level = const(level) if function.spec.levels else None
        self.spec, self.plan = function.spec.alone(self.map), plan
        # Stride of a channel block in the packed weights.
        layout = self.layout
        self.block_stride = layout.kernel[0] * layout.segments * layout.steps * layout.lanes * layout.dot
        self.top = self.em.bind("top", top)
        slack, start = overread(layout), self.map.in_start
        self.strip = padded_rows(
            self.em, self.spec, self.dots, function.data, self.top, plan.rows, copies, slack, start
        )
        self.sums = self._window_sums(self.strip)
        self.stage = None
        if function.borders:
            tile = plan.tile[0], plan.blocks, self.dots.lanes
            out = function.borders[level]
            self.stage = BorderStage(self.em, out, self.map, self.spec.out_channels, tile)

    def tile(self, y: Expr, x: Expr, block: Expr, first: Expr, start: Buffer | None, values: Buffer) -> None:
        """One register tile: the reduction over input channels from `first` on, and its epilogue."""
        self._prefetch_streams(y, x, block)
        self._reduce(self.strip.at_channel(first), y, x, block, start, values)
        self._finish_tile(y, x, block, values)

    @contextmanager
    def tiles(self) -> Iterator[tuple[Expr, Expr]]:
        """Loops over the register tiles of a strip: the strip's row and the column where each begins."""
        with self.tile_rows() as y, self.tile_columns() as x:
            yield y, x

    @contextmanager
    def tile_rows(self) -> Iterator[Expr]:
        """The first row of each row of tiles; the last is shifted back inside."""
        em, rows, high = self.em, self.plan.rows, self.plan.tile[0]
        with em.loop("ty", -(-rows // high)) as ty:
            yield em.bind("y", tirx.Min(ty * high, const(rows - high)))

    @contextmanager
    def tile_columns(self) -> Iterator[Expr]:
        """The first column of each tile of a row; the last is shifted back inside."""
        em, width, wide = self.em, self.spec.out_width, self.plan.tile[1]
        with em.loop("tx", -(-width // wide)) as tx:
            yield em.bind("x", tirx.Min(tx * wide, const(width - wide)))

    @contextmanager
    def channels(self, part: Expr) -> Iterator[tuple[Expr, Expr]]:
        """Loops over a part's blocks of output channels: the first block and its first input channel."""
        em, plan, groups = self.em, self.plan, self.spec.group
        group_blocks = self.layout.blocks // groups
        group_items = -(-group_blocks // plan.blocks)
        items = groups * group_items
        share = -(-items // plan.parts)
        count = share if plan.parts == 1 else tirx.Min(const(share), items - part * share)
        with em.loop("item", count) as offset:
            item = em.bind("item", part * share + offset)
            group = item // group_items if groups > 1 else const(0)
            inside = tirx.Min((item - group * group_items) * plan.blocks, const(group_blocks - plan.blocks))
            block = em.bind("block", group * group_blocks + inside)
            yield block, group * self.layout.in_channels

    @property
    def shifted(self) -> bool:
        return self.dots.offset != 0

    def weight_sums(self, block: Expr) -> Buffer:
        """−offset·Σ weights of each output channel of the group: what the shifted samples added too much."""
        em, dots, plan = self.em, self.dots, self.plan
        start = em.alloc("start", "int32", plan.blocks * dots.lanes)
        ones = em.alloc("ones", dots.sample_dtype, dots.dot)
        em.store(ones, 0, const(1, dots.sample_dtype, dots.dot), dots.dot)
        steps = self.block_stride // (dots.lanes * dots.dot)
        with em.loop("sum_block", plan.blocks) as b:
            acc = em.alloc("sum_acc", "int32", dots.lanes, "local")
            em.store(acc, 0, const(0, "int32", dots.lanes), dots.lanes)
            with em.loop("sum_step", steps) as k:
                weight = dots.weight(
                    self.weights, (block + b) * self.block_stride + k * (dots.lanes * dots.dot)
                )
                total = dots.accumulate(load(acc, const(0), dots.lanes), dots.sample(ones, const(0)), weight)
                em.store(acc, 0, total, dots.lanes)
            em.store(
                start,
                b * dots.lanes,
                load(acc, const(0), dots.lanes) * const(-dots.offset, "int32", dots.lanes),
                dots.lanes,
            )
        return start

    def _window_sums(self, strip: PaddedRows) -> Buffer | None:
        if not self.spec.odd:
            return None
        correction = -self.layout.reduction * self.dots.offset if self.shifted else 0
        return window_sums(self.em, self.spec, strip, self.plan.rows, correction)

    def _sample_base(self, strip: PaddedRows, y: Expr, x: Expr, ky: Expr, segment: Expr) -> Expr:
        """Where the samples of kernel row `ky` begin for output pixel (y, x) of the strip."""
        spec = self.spec
        row = y * spec.strides[0] + ky * spec.dilations[0]
        column = x * spec.strides[1] + segment * spec.dilations[1]
        return strip.origin + row * strip.row_stride + column * spec.in_channels

    def _reduce(
        self, strip: PaddedRows, y: Expr, x: Expr, block: Expr, start: Buffer | None, values: Buffer
    ) -> None:
        """The accumulators of one tile, left in `values` [pixel, block, lane]."""
        em, plan, dots, layout = self.em, self.plan, self.dots, self.layout
        lanes = dots.lanes
        if dots.narrow:
            self._reduce_partially(dots.narrow, strip, y, x, block, start, values)
            return
        accs = self._accumulators("int32", dots.sums)
        for row in accs:
            for b, acc in enumerate(row):
                em.store(acc, 0, dots.start(self._first(start, b)), dots.sums)
        with em.loop("ky", layout.kernel[0]) as ky, em.loop("segment", layout.segments) as segment:
            bases = self._bases(strip, y, x, block, ky, segment)
            for acc, samples, weights in self._steps(strip, bases, 0, layout.steps, accs):
                so_far = load(acc, const(0), dots.sums)
                em.store(acc, 0, dots.accumulate_fused(so_far, samples, weights), dots.sums)
        for p in range(plan.pixels):
            for b, acc in enumerate(accs[p // dots.pixels]):
                at = (p * plan.blocks + b) * lanes
                so_far = load(acc, const(0), dots.sums)
                em.store(values, const(at), dots.of_pixel(so_far, p % dots.pixels), lanes)

    def _reduce_partially(
        self,
        dots: NarrowSums,
        strip: PaddedRows,
        y: Expr,
        x: Expr,
        block: Expr,
        start: Buffer | None,
        values: Buffer,
    ) -> None:
        """`_reduce` with narrower accumulators in registers, added to `values` before they can overflow."""
        em, plan, layout = self.em, self.plan, self.layout
        lanes, (dtype, wide) = dots.lanes, dots.partial
        once = chunks(layout, dots).count == 1
        places = [
            (p, b, const((p * plan.blocks + b) * lanes))
            for p in range(plan.pixels)
            for b in range(plan.blocks)
        ]
        if not once:
            for _, b, at in places:
                em.store(values, at, self._first(start, b), lanes)
        with chunk_loops(em, layout, dots) as runs:
            accs = self._accumulators(dtype, wide)
            for row in accs:
                for acc in row:
                    em.store(acc, 0, const(0, dtype, wide), wide)
            with runs() as (ky, segment, first, steps):
                bases = self._bases(strip, y, x, block, ky, segment)
                for acc, (sample,), (weight,) in self._steps(strip, bases, first, steps, accs):
                    em.store(acc, 0, dots.add_partial(load(acc, const(0), wide), sample, weight), wide)
            for p, b, at in places:
                so_far = self._first(start, b) if once else load(values, at, lanes)
                em.store(values, at, dots.widen(so_far, load(accs[p][b], const(0), wide)), lanes)

    def _accumulators(self, dtype: str, lanes: int) -> list[list[Buffer]]:
        """One buffer an accumulator, [pixel or pixels of a product][block]: registers."""
        return [
            [self.em.alloc("acc", dtype, lanes, "local") for _ in range(self.plan.blocks)]
            for _ in range(-(-self.plan.pixels // self.dots.pixels))
        ]

    def _first(self, start: Buffer | None, b: int) -> Expr:
        """What the accumulators of block `b` of the tile start at."""
        lanes = self.dots.lanes
        return const(0, "int32", lanes) if start is None else load(start, const(b * lanes), lanes)

    def _bases(
        self, strip: PaddedRows, y: Expr, x: Expr, block: Expr, ky: Expr, segment: Expr
    ) -> tuple[Expr, Expr]:
        """Where the samples of the tile's first pixel and the weights of its first block begin."""
        em, layout = self.em, self.layout
        samples = em.bind("sample_base", self._sample_base(strip, y, x, ky, segment))
        run = (ky * layout.segments + segment) * (layout.steps * self.dots.vector_bytes)
        return samples, em.bind("weight_base", block * self.block_stride + run)

    def _steps(
        self,
        strip: PaddedRows,
        bases: tuple[Expr, Expr],
        first: int | Expr,
        count: int | Expr,
        accs: list[list[Buffer]],
    ) -> Iterator[Products]:
        """The products of `count` steps from `first` on, in the body of a loop: what is written for each
        belongs there. Steps whose samples are loaded together first, then the others.
        """
        em, together = self.em, self.dots.sample_steps
        rounds = count // together
        for start, turns, steps in ((0, rounds, together), (rounds * together, count - rounds * together, 1)):
            if isinstance(turns, int) and turns == 0:
                continue
            with em.loop("k", turns) as k:
                yield from self._products(strip, bases, first + start + k * steps, accs, steps)
            if together == 1:
                return

    def _products(
        self, strip: PaddedRows, bases: tuple[Expr, Expr], k: Expr, accs: list[list[Buffer]], steps: int = 1
    ) -> Iterator[Products]:
        """Every product of `steps` steps from `k` on, one or `DotProduct.sample_steps`, those of fused steps
        together; each weight and sample loaded once.
        """
        em, plan, dots, spec = self.em, self.plan, self.dots, self.spec
        sample_base, weight_base = bases
        # Weights come from the second-level cache, once for every tile of pixels.
        if plan.pixels * plan.blocks >= PREFETCH_PRODUCTS:
            for b in range(plan.blocks):
                ahead = weight_base + b * self.block_stride + (k + PREFETCH_STEPS) * dots.vector_bytes
                em.prefetch(self.weights, ahead, level=1)
        places = []
        for p in range(plan.pixels):
            py, px = divmod(p, plan.tile[1])
            offset = py * spec.strides[0] * strip.row_stride + px * spec.strides[1] * spec.in_channels
            places.append(sample_base + offset + k * dots.dot)
        words = []
        if steps > 1 or dots.pixels > 1:
            words = [em.bind("s", dots.words(strip.samples, at, steps)) for at in places]
        blocks = range(plan.blocks)
        for step in range(0, steps, dots.fused_steps):
            members = range(step, min(step + dots.fused_steps, steps))
            weights = [[self._weight(weight_base, b, k + member) for member in members] for b in blocks]
            for p, row in enumerate(accs):
                if words:
                    # What is missing of the last pixels is the last one again.
                    pixels = [min(p * dots.pixels + i, plan.pixels - 1) for i in range(dots.pixels)]
                    samples = [dots.samples_of([words[q] for q in pixels], member) for member in members]
                else:
                    samples = [em.bind("s", dots.sample(strip.samples, places[p]))]
                for acc, of_block in zip(row, weights, strict=True):
                    yield acc, samples, of_block

    def _weight(self, base: Expr, block: int, step: Expr) -> Expr:
        """The weights of one step of a block of the tile."""
        at = base + block * self.block_stride + step * self.dots.vector_bytes
        return self.em.bind("w", self.dots.weight(self.weights, at))

    def _prefetch_streams(self, y: Expr, x: Expr, block: Expr) -> None:
        """Asks for the streams of a tile, which arrive while it is reduced."""
        plan, lanes = self.plan, self.dots.lanes
        for py, px, b in product(range(plan.tile[0]), range(plan.tile[1]), range(plan.blocks)):
            self.bound.prefetch(self.em, self._place(y + py, x + px), (block + b) * lanes, level=1)

    def _finish_tile(self, y: Expr, x: Expr, block: Expr, values: Buffer) -> None:
        """Epilogue of every value of the tile; channels that do not fill a vector go one by one."""
        em, plan, spec, lanes = self.em, self.plan, self.spec, self.dots.lanes
        full_blocks = spec.out_channels // lanes
        rest = spec.out_channels % lanes
        together = 1 if rest or self.stage is not None else self.bound.vectors_together(lanes, plan.blocks)

        def pixels(b: Expr, channel: Expr, lane: Expr, count: int) -> None:
            with em.loop("py", plan.tile[0]) as py, em.loop("px", plan.tile[1]) as px:
                pixel = py * plan.tile[1] + px
                value = load(values, (pixel * plan.blocks + b) * lanes + lane, count)
                if self.sums is not None:
                    window = load(self.sums, (y + py) * spec.out_width + x + px)
                    value = value * const(2, "int32", count) + (
                        window if count == 1 else tirx.Broadcast(window, count)
                    )
                value, place = em.bind("v", value), self._place(y + py, x + px)
                if self.stage is None:
                    self.bound.emit(em, value, place, channel, count)
                else:
                    value = self.bound.after_stages(em, value, place, channel, count)
                    self.stage.put(py * spec.out_width + (x + px), b * lanes + lane, value, count)

        with em.loop("b", plan.blocks // together) as turn:
            b = turn * together
            channel = em.bind("channel", (block + b) * lanes)
            if full_blocks:
                with em.when(block + b < full_blocks) if rest else em.always():
                    pixels(b, channel, const(0), lanes * together)
            if rest:
                with em.when(block + b >= full_blocks), em.loop("lane", rest) as lane:
                    pixels(b, channel + lane, lane, 1)

    def _place(self, y: Expr, x: Expr) -> Place:
        """The output pixel (y, x) of the strip."""
        row = self.top + y
        return Place(row * self.spec.out_width + (x + self.map.out_start), row, x, self.level)
