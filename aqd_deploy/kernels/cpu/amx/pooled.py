"""A convolution on tiles with a max-pool in its epilogue. Nothing follows the products: the sums of some rows
stay as they are, near, and the pool is the first to read them.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial, reduce
from math import prod
from typing import Any

from tvm import tirx

from aqd_deploy.kernels.contract.caches import Core
from aqd_deploy.kernels.contract.spec import ConvSpec, Epilogue, Pool
from aqd_deploy.kernels.cpu.amx.conv import NEAR_WEIGHTS, TileConv, amx_layout
from aqd_deploy.kernels.cpu.amx.finish import Sums
from aqd_deploy.kernels.cpu.amx.frame import Frame
from aqd_deploy.kernels.cpu.amx.plan import Plan
from aqd_deploy.kernels.cpu.amx.tiles import ROWS
from aqd_deploy.kernels.cpu.conv.pooled import (
    AHEAD,
    around_pool,
    first_kept_row,
    inside,
    kept_rows,
    most_kept_bytes,
    pool_of,
    rows_per_task,
    tasks_of,
)
from aqd_deploy.kernels.cpu.emit import Emitter, Expr, broadcast, const, load
from aqd_deploy.kernels.cpu.epilogue.epilogue import BoundEpilogue, Place, bind_epilogue
from aqd_deploy.kernels.cpu.movement.pointwise import for_channels
from aqd_deploy.targets.isa import Isa

LANES = 16


def conv_amx_pooled(
    spec: ConvSpec, epilogue: Epilogue, isa: Isa, threads: int, plan: Plan, core: Core
) -> Any:
    """PrimFunc of a convolution in one group; parameters as in `spec.Epilogue`, outputs pooled. Parts follow
    from the pool. Raises ShapeError as `pool_of`.
    """
    pool = pool_of(spec, epilogue)
    height, width = pool.size(spec.out_height, spec.out_width)
    rows = rows_per_task(spec, pool, threads, most_kept_bytes(core))
    kept = kept_rows(spec, pool, rows)
    before, after = around_pool(epilogue)
    far = prod(amx_layout(spec).shape) > NEAR_WEIGHTS
    plan = replace(plan, pixel_parts=1, channel_parts=1, weights_first=plan.weights_first and far)
    conv = TileConv(rows_alone(spec, kept), spec, before, isa, plan)
    em = conv.em
    pooled = bind_epilogue(em, after, isa, height, width, spec.out_channels)
    conv.unit.ask()
    with em.loop("task", tasks_of(height, rows), "parallel" if threads > 1 else "serial") as task:
        first = em.bind("first", tirx.Min(task * rows, const(height - rows)))
        top = em.bind("kept_top", first_kept_row(spec, pool, first, kept))
        sums = KeptSums(em, conv.bound, conv.frame, plan, conv.layout.blocks, top)
        conv.finish = sums
        conv.task(const(0), em.bind("input_top", top * spec.strides[0] - spec.pads[0]))
        with em.loop("py", rows) as y:
            sums.pool_row(pooled, pool, em.bind("pooled_row", first + y))
    return em.finish()


def rows_alone(spec: ConvSpec, rows: int) -> ConvSpec:
    """`spec` as the convolution of the samples that `rows` rows of its output need."""
    height = (rows - 1) * spec.strides[0] + (spec.kernel[0] - 1) * spec.dilations[0] + 1
    return replace(spec, height=height, pads=(0, spec.pads[1], 0, spec.pads[3]))


class KeptSums(Sums):
    """All of them stay, int32 [blocks, numbers of the frame, 16], until they are pooled; the first are of row
    `top` of the output.
    """

    def __init__(
        self, em: Emitter, bound: BoundEpilogue, frame: Frame, plan: Plan, blocks: int, top: Expr
    ) -> None:
        self.em, self.bound, self.frame, self.plan, self.top = em, bound, frame, plan, top
        self.numbers = frame.tiles * frame.pixels
        (self.framed,) = frame.maps
        self.last = frame.last_number(self.framed)
        self.sums = em.alloc("kept", "int32", plan.items(blocks) * plan.wide * self.numbers * LANES)

    def next(self, tile: Expr, block: Expr, origin: Expr, passed: Expr) -> tuple[Expr, Expr]:
        em, frame = self.em, self.frame
        self.to = em.bind("to", (block * self.numbers + tile * frame.pixels) * LANES)
        number = tirx.Min(tile * frame.pixels, const(self.last))
        at = number * frame.spec.strides[1] + self.framed.base - origin
        return em.bind("at", at), const(self.framed.width)

    def place_of(self, sums: int) -> Expr:
        i, j = divmod(sums, self.plan.wide)
        return self.to + (j * self.numbers + i * ROWS) * LANES

    def pool_row(self, pooled: BoundEpilogue, pool: Pool, y: Expr) -> None:
        """Row `y` of the pooled map, through what follows the pool. The maximum of a column is taken once for
        all windows that have it.
        """
        em, bound = self.em, self.bound
        across, left = pool.strides[1], pool.pads[1]
        shared = max(pool.kernel[1] - across, 0)
        ys = [
            em.bind("y", inside(y * pool.strides[0] + (ky - pool.pads[0]), bound.height))
            for ky in range(pool.kernel[0])
        ]

        def begin(c: Expr, lanes: int) -> None:
            for i in range(shared):
                column = self._column(ys, const(i - left), c, lanes)
                em.store(last, c + i * bound.channels, column, lanes)

        def window(x: Expr, c: Expr, lanes: int) -> None:
            places = [c + i * bound.channels for i in range(shared)]
            columns = [em.bind("column", load(last, at, lanes)) for at in places]
            for i in range(shared, pool.kernel[1]):
                columns.append(em.bind("column", self._column(ys, x * across + (i - left), c, lanes)))
            for i, at in enumerate(places):
                em.store(last, at, columns[i + across], lanes)
            place = pooled.at(y, x)
            pooled.prefetch(em, replace(place, pixel=place.pixel + AHEAD), c, level=1)
            pooled.emit(em, em.bind("v", reduce(tirx.Max, columns)), place, c, lanes)

        last = em.alloc("columns", "int32", max(shared, 1) * bound.channels)
        for_channels(em, bound.channels, LANES, begin)
        with em.loop("px", pooled.width) as x:
            for_channels(em, bound.channels, LANES, partial(window, x))

    def _column(self, ys: list[Expr], x: Expr, channel: Expr, lanes: int) -> Expr:
        """The maximum of column `x` in rows `ys`; outside it repeats the nearest, which is in the window."""
        x = inside(x, self.bound.width)
        return reduce(tirx.Max, (self._value(y, x, channel, lanes) for y in ys))

    def _value(self, y: Expr, x: Expr, channel: Expr, lanes: int) -> Expr:
        """What is pooled: a sum, after the stages that come before the pool."""
        em, bound = self.em, self.bound
        number = (y - self.top) * self.framed.pitch + x
        shifted = self.numbers - self.frame.pixels - self.last
        if shifted:
            # Where the last tile has been shifted back.
            number = number + tirx.Select(number >= self.last + shifted, const(shifted), const(0))
        number = em.bind("number", number)
        at = (channel // LANES * self.numbers + number) * LANES + channel % LANES
        value = load(self.sums, at, lanes)
        if self.windows is not None:
            value = value * const(2, "int32", lanes) + broadcast(load(self.windows, number), lanes)
        value = em.bind("value", value)
        return bound.after_stages(em, value, Place(y * bound.width + x, y, x), channel, lanes)
