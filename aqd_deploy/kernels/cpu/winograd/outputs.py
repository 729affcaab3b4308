"""The outputs of a Winograd function's tiles: products are transformed back into outputs, which the epilogue
takes.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

from tvm import tirx

from aqd_deploy.kernels.cpu.emit import Buffer, Expr, Wrapping, broadcast, const, load
from aqd_deploy.kernels.cpu.epilogue.epilogue import Place
from aqd_deploy.kernels.cpu.epilogue.nchw_store import BorderTile
from aqd_deploy.kernels.cpu.winograd.function import WinogradFunction
from aqd_deploy.kernels.cpu.winograd.tiles import Tile


class OutputTransform:
    """Writes the outputs of tiles from `products`; `sums` are the window sums of halved forms."""

    def __init__(self, function: WinogradFunction, products: Buffer, sums: Buffer | None) -> None:
        self.function, self.em, self.spec, self.bound = function, function.em, function.spec, function.bound
        self.dots, self.form, self.plan = function.dots, function.form, function.plan
        self.borders, self.outputs = function.borders, function.outputs
        self.products, self.sums = products, sums
        em, form, lanes = self.em, self.form, self.dots.lanes
        self.values = em.alloc("tile", "int32", self.outputs * lanes)
        self.columns: Buffer | None = None
        if form.wide:
            self.columns = em.alloc("columns", "int32", form.horizontal.values * form.rows * lanes)
        size = (form.rows, form.columns)
        self.border_tile = BorderTile(em, self.borders, self.spec, size, lanes, self.values)

    def prefetch_streams(self, tile: Tile, block: Expr) -> None:
        """Asks for the streams at a tile."""
        for y, x, b in product(range(self.form.rows), range(self.form.columns), range(self.plan.blocks)):
            self.bound.prefetch(self.em, self._place(tile, y, x), (block + b) * self.dots.lanes, level=1)

    def emit(self, tile: Tile, t: Expr, at: Expr, block: Expr) -> None:
        """Products of `tile`, the one with number `t` of the task's → convolution results → epilogue; `at` is
        the tile's first product, `block` the first vector of channels.
        """
        em, plan, form, lanes = self.em, self.plan, self.form, self.dots.lanes
        with em.loop("b", plan.blocks) as b:
            if self.borders:
                self.border_tile.prefetch(self._level(tile), (tile.y, tile.x), (block + b) * lanes)

            def at_position(position: int) -> Any:
                index = ((at + position * plan.tiles) * plan.blocks + b) * lanes
                value = em.bind("m", load(self.products, index, lanes))
                return Wrapping(value, lanes) if form.wide else value

            columns = form.output_columns(at_position, self.function.named)
            if self.columns is not None:
                columns = self._by_memory(columns)

            def row(y: int) -> list[Expr]:
                found: list[Expr] = []
                for value in form.output_row([column[y] for column in columns]):
                    result = self._divided(value, 2 if form.halved else 1)
                    if self.sums is not None:
                        window = load(self.sums, t * self.outputs + y * form.columns + len(found))
                        result = result + broadcast(window, lanes)
                    found.append(em.bind("r", result))
                return found

            self._finish(tile, em.bind("block", block + b), row)

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

    def _finish(self, tile: Tile, block: Expr, row: Callable[[int], list[Expr]]) -> None:
        """Epilogue of one block of a tile's outputs, which `row` computes from top to bottom; channels that
        do not fill a vector go one by one.
        """
        em, spec, lanes = self.em, self.spec, self.dots.lanes
        full_blocks, rest = divmod(spec.out_channels, lanes)
        channel = em.bind("channel", block * lanes)
        if full_blocks:
            padded = self.function.layout.channels != spec.out_channels
            with em.when(block < full_blocks) if padded else em.always():
                self._store(tile, channel, row)
        if rest:
            with em.when(tirx.EQ(block, full_blocks)):
                for o, value in enumerate(value for y in range(self.form.rows) for value in row(y)):
                    em.store(self.values, o * lanes, value, lanes)
                with em.loop("o", self.outputs) as turn, em.loop("lane", rest) as lane:
                    o = em.bind("o", self.outputs - 1 - turn)
                    value = em.bind("v", load(self.values, o * lanes + lane))
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
            self.bound.after_stages(em, value, self._place(tile, y, x), channel, lanes)
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
        value = self.bound.after_stages(self.em, value, place, channel, 1)
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
        if self.function.tiles.leaves:
            y, x = tirx.Min(y, tile.out_height - 1), tirx.Min(x, tile.out_width - 1)
        y, x = em.bind("oy", y), em.bind("ox", x)
        return Place(em.bind("pixel", tile.out_start + y * tile.out_width + x), y, x, tile.level)
