"""The direct convolution on AMX: tiles of pixels × output channels that run over the whole reduction.

Vectors have little to do while tiles are multiplied, and the tiles wait while sums are brought through the
epilogue. So the epilogue of one block of sums is written between the products of the next one: sums go to
one of two buffers, a few of the other's pixels are finished after each step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from tvm import tirx

from aqd_deploy.errors import ShapeError
from aqd_deploy.kernels.contract.spec import ConvSpec, Epilogue, StoreBorder
from aqd_deploy.kernels.cpu.amx.copy import FrameCopy
from aqd_deploy.kernels.cpu.amx.finish import Finish, Sums
from aqd_deploy.kernels.cpu.amx.fold import folded_rows
from aqd_deploy.kernels.cpu.amx.frame import Frame
from aqd_deploy.kernels.cpu.amx.nchw import BorderBlock
from aqd_deploy.kernels.cpu.amx.plan import Plan, weight_steps
from aqd_deploy.kernels.cpu.amx.tiles import ROW_BYTES, ROWS, TILE_BYTES, TileUnit
from aqd_deploy.kernels.cpu.amx.weights import NearWeights
from aqd_deploy.kernels.cpu.amx.windows import WindowSums
from aqd_deploy.kernels.cpu.emit import Emitter, Expr, const
from aqd_deploy.kernels.cpu.epilogue.epilogue import bind_epilogue
from aqd_deploy.kernels.storage.layout import WeightLayout
from aqd_deploy.targets.isa import Isa

# Steps whose products are written one after the other, as long as they divide those of a kernel row.
UNROLLED = 4
# Bytes of weights that stay in the first-level cache beside samples and sums.
NEAR_WEIGHTS = 16 << 10


def amx_layout(spec: ConvSpec, codes: int = 1) -> WeightLayout:
    """Blocks of 16 output channels in whole tiles; kernel rows are dense unless dilation tears them apart.
    `codes`: as many weights in a byte. Raises ShapeError where it is none of `weight_codes`.
    """
    if codes != 1 and codes not in weight_codes(spec):
        raise ShapeError("weights do not fit these codes", received=codes, valid=str(weight_codes(spec)))
    lo, hi = spec.weight_range or (-128, 127)
    doubled = spec.odd and 2 * lo + 1 >= -128 and 2 * hi + 1 <= 127
    size = spec.out_channels, spec.in_channels, spec.kernel
    fold = folded_rows(spec)
    dense = fold > 1 or spec.kernel[1] == 1 or spec.dilations[1] == 1
    grid = (lo, spec.weight_step) if codes > 1 else (0, 1)
    return WeightLayout(*size, 16, 4, dense, whole=ROWS, doubled=doubled, fold=fold, codes=codes, grid=grid)


def weight_codes(spec: ConvSpec) -> tuple[int, ...]:
    """How many weights a byte may hold: codes of 8, 4 or 2 bits that the range allows. Zeros, which fill
    tiles, have no code on every grid.
    """
    layout = amx_layout(spec)
    filled = layout.fold > 1 or layout.segment_length % (layout.dot * ROWS)
    # Codes are shifted to where they stand for the step.
    if spec.weight_range is None or spec.odd or filled or spec.weight_step not in (1, 2):
        return (1,)
    lowest, highest = spec.weight_range
    bits = ((highest - lowest) // spec.weight_step).bit_length()
    return (1, *(codes for codes in (2, 4) if bits <= 8 // codes))


def conv_amx(spec: ConvSpec, epilogue: Epilogue, isa: Isa, threads: int, plan: Plan) -> Any:
    """PrimFunc of a convolution in one group; parameters as in `spec.Epilogue`."""
    return TileConv(spec, spec, epilogue, isa, plan).emit("parallel" if threads > 1 else "serial")


class TileConv:
    """Writes one function; the methods go from the outermost loop inwards.

    `spec` is what is computed at a time: the convolution `whole`, or some of its rows; as an attribute what
    that is in its frame.
    """

    def __init__(self, spec: ConvSpec, whole: ConvSpec, epilogue: Epilogue, isa: Isa, plan: Plan) -> None:
        self.whole, self.plan, self.layout = whole, plan, amx_layout(spec, plan.codes)
        self.frame = Frame.of(spec, ROWS * plan.high)
        self.spec = self.frame.spec
        self.em = Emitter()
        near = self.layout.blocks * weight_steps(self.layout) * TILE_BYTES <= NEAR_WEIGHTS
        self.unit = TileUnit(self.em, spec.input_signed, near)
        self.data = self.em.parameter(
            "data", (whole.height, whole.width, whole.in_channels), "int8" if spec.input_signed else "uint8"
        )
        stored = self.em.parameter("weights", self.layout.shape, "int8")
        self.weights = NearWeights(self.em, stored, self.layout, plan, self.frame)
        self.tile_steps = self.layout.steps // ROWS
        self.unrolled = max(n for n in range(1, UNROLLED + 1) if self.tile_steps % n == 0)
        self.groups = self.layout.rows * self.layout.segments * (self.tile_steps // self.unrolled)
        border = next((store for store in epilogue.stores if isinstance(store, StoreBorder)), None)
        bound = bind_epilogue(
            self.em,
            epilogue if border is None else replace(epilogue, stores=()),
            isa,
            whole.out_height,
            whole.out_width,
            whole.out_channels,
            max(1, len(whole.levels)),
        )
        borders = None if border is None else BorderBlock(self.em, self.frame, plan, border.parts)
        self.bound = bound
        self.finish: Sums = Finish(self.em, bound, borders, self.frame, plan, self.groups)
        self.samples = self.data
        self.plane = 0

    def emit(self, kind: str) -> Any:
        em = self.em
        self.unit.ask()
        with em.loop("task", self.plan.tasks, kind) as task:
            self.task(task, const(-self.whole.pads[0]))
        return em.finish()

    def task(self, task: Expr, top: Expr) -> None:
        """A part of the pixels times a part of the output channels; the first samples are those of row `top`
        of the input.
        """
        em, plan, frame, spec = self.em, self.plan, self.frame, self.spec
        pixel_part = em.bind("pixel_part", task // plan.channel_parts)
        channel_part = em.bind("channel_part", task % plan.channel_parts)
        origin = self._copy(pixel_part, top)
        lo, hi = (
            em.bind(name, (pixel_part + more) * frame.tiles // plan.pixel_parts)
            for name, more in (("lo", 0), ("hi", 1))
        )
        items = plan.items(self.layout.blocks)
        first, end = (
            em.bind(name, (channel_part + more) * items // plan.channel_parts)
            for name, more in (("first", 0), ("end", 1))
        )
        self.unit.configure()
        self.finish.begin()
        self.weights.begin(first, end)
        if spec.odd and not self.layout.doubled:
            sums = WindowSums(em, self.unit, frame, self.layout, self.samples, self.plane)
            self.finish.windows = sums.fill(lo, hi, plan.pixel_parts, origin)
        with self._loops((lo, hi - lo), (first, end - first)) as (tile, item):
            self._block(tile, tile - lo, item, origin)
        self.finish.rest(self.unit)
        self.unit.release()

    @contextmanager
    def _loops(self, tiles: tuple[Expr, Expr], items: tuple[Expr, Expr]) -> Iterator[tuple[Expr, Expr]]:
        """Loops over tiles of pixels and items of channels, each (first, count), in the plan's order."""
        em = self.em
        if self.plan.weights_first:
            with em.loop("item", items[1]) as item, em.loop("tile", tiles[1]) as tile:
                yield em.bind("tile", tiles[0] + tile), em.bind("item", items[0] + item)
        else:
            with em.loop("tile", tiles[1]) as tile, em.loop("item", items[1]) as item:
                yield em.bind("tile", tiles[0] + tile), em.bind("item", items[0] + item)

    def _copy(self, part: Expr, top: Expr) -> Expr:
        """Fills the frame of a part of the pixels; returns the pixel of all frames at which it begins."""
        frame, parts, channels = self.frame, self.plan.pixel_parts, self.spec.in_channels
        if not frame.copies:
            return self.em.bind("origin", top * -self.spec.width)
        self.plane = frame.plane_pixels(parts) * channels
        self.samples = self.em.alloc(
            "frame", str(self.data.dtype), (max(frame.planes) + 1) * self.plane + ROW_BYTES
        )
        copy = FrameCopy(self.em, frame, self.data, self.samples, self.plane, self.whole, top)
        ranges = [frame.rows_of(index, parts) for index in range(parts)]
        origins = [frame.origin(index, parts) for index in range(parts)]
        origin = self._chosen("origin", part, origins)
        for framed in frame.maps:
            firsts, ends = ([rows[framed.level][side] for rows in ranges] for side in (0, 1))
            if firsts != ends:
                first = self._chosen("first_row", part, firsts)
                copy.rows(framed, first, self._chosen("end_row", part, ends), origin)
        return origin

    def _chosen(self, name: str, index: Expr, values: Sequence[int]) -> Expr:
        """values[index]."""
        result = const(values[-1])
        for i, value in enumerate(values[:-1]):
            result = tirx.Select(tirx.EQ(index, const(i)), const(value), result)
        return self.em.bind(name, result)

    def _block(self, tile: Expr, passed: Expr, item: Expr, origin: Expr) -> None:
        """The sums of one tile of pixels and one item of channels; the task passed as many tiles before."""
        plan, unit, finish = self.plan, self.unit, self.finish
        block = self.em.bind("block", item * plan.wide)
        at, width = finish.next(tile, block, origin, passed)
        self.weights.item(item, passed)
        if finish.late:
            self._group(const(0), at, width, first=True)
        else:
            for sums in range(plan.sums):
                unit.clear(sums)
        with self.em.loop("group", self.groups - finish.late) as group:
            self._group(group + int(finish.late), at, width)
        finish.done()
        if not finish.late:
            finish.store(unit)

    def _group(self, group: Expr, at: Expr, width: Expr, first: bool = False) -> None:
        """The products of some steps of a block, from pixel `at` of the frame on; `width` pixels are one row
        of it. In a `first` group apart each tile of sums is stored and cleared before its first product.
        """
        em, spec, layout = self.em, self.spec, self.layout
        rounds = self.tile_steps // self.unrolled
        row_groups = layout.segments * rounds
        ky = em.bind("ky", group // row_groups)
        segment, turn = group % row_groups // rounds, group % rounds
        down = ky * spec.dilations[0]
        row, plane = down // spec.strides[0], down % spec.strides[0]
        pixel = at + row * width + segment * spec.dilations[1]
        start = pixel * spec.in_channels + plane * self.plane + turn * (self.unrolled * ROW_BYTES)
        start = em.bind("sample_base", start)
        for step in range(self.unrolled):
            places = self.weights.of_step(group * self.unrolled + step)
            self._step(start + step * ROW_BYTES, places, first and step == 0)
            if not first:
                self.finish.some(group, step, self.unrolled)
            self.weights.nearer(group, step, self.unrolled)

    def _step(self, at: Expr, weights: list[Expr], first: bool) -> None:
        """One step of 64 inputs: each operand is loaded once, each of its products follows its load."""
        unit, plan = self.unit, self.plan

        def multiply(sums: int, samples: int, weights: int) -> None:
            if first:
                self.finish.store_one(unit, sums)
                unit.clear(sums)
            unit.multiply(sums, samples, weights)

        pixel = self.spec.strides[1] * self.spec.in_channels
        w = plan.sums
        s = w + plan.wide
        spare = 8 - s
        for j, place in enumerate(weights):
            unit.load_weights(w + j, self.weights.tiles, place)
            if j == 0:
                unit.load(s, self.samples, at, pixel)
            multiply(j, s, w + j)
        for i in range(1, plan.high):
            register = s + i % spare
            unit.load(register, self.samples, at + i * (ROWS * pixel), pixel)
            for j in range(plan.wide):
                multiply(i * plan.wide + j, register, w + j)
