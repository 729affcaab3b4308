"""The output tiles of a Winograd convolution as one list, over all maps of a stack."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx

from aqd_deploy.kernels.contract.spec import ConvSpec
from aqd_deploy.kernels.cpu.emit import Buffer, Emitter, Expr, const, load
from aqd_deploy.kernels.winograd.forms import Form


@dataclass(frozen=True)
class Tile:
    """A tile's map and where it lies there, all int32: (y, x) of its first output, the map's sizes and
    starts.
    """

    level: Expr | None
    y: Expr
    x: Expr
    height: Expr
    width: Expr
    out_height: Expr
    out_width: Expr
    in_start: Expr
    out_start: Expr


class TileList:
    """`total` tiles. Those at the end of a row or map are shifted back inside; `leaves` says whether some map
    is smaller than a tile, which then leaves it.
    """

    def __init__(self, spec: ConvSpec, form: Form) -> None:
        self.spec, self.form = spec, form
        maps = spec.maps
        self.tiles_wide = [-(-m.out_width // form.columns) for m in maps]
        counts = [-(-m.out_height // form.rows) * wide for m, wide in zip(maps, self.tiles_wide, strict=True)]
        self.starts = [sum(counts[:level]) for level in range(len(maps))]
        self.total = sum(counts)
        self.leaves = any(m.out_height < form.rows or m.out_width < form.columns for m in maps)

    def tables(self, em: Emitter) -> list[Buffer]:
        """For stacks: of each number that depends on the map, its value for every level.

        Loads keep the level opaque: the simplifier takes seconds for a function whose indices select among
        constants.
        """
        if len(self.starts) == 1:
            return []
        tables = []
        for values in self._numbers():
            table = em.alloc("table", "int32", len(values))
            for level, value in enumerate(values):
                em.store(table, level, const(value))
            tables.append(table)
        return tables

    def _numbers(self) -> list[list[int]]:
        """First tile and tiles a row, then what `Tile` has of its map, for every map."""
        maps = self.spec.maps
        return [
            self.starts,
            self.tiles_wide,
            [m.height for m in maps],
            [m.width for m in maps],
            [m.out_height for m in maps],
            [m.out_width for m in maps],
            [m.in_start for m in maps],
            [m.out_start for m in maps],
        ]

    def at(self, em: Emitter, index: Expr, tables: list[Buffer]) -> Tile:
        """The tile `index`; `tables` is what `tables` made."""
        index = em.bind("index", index)
        level = const(0)
        if tables:
            found = em.alloc("level", "int32", 1)
            em.store(found, 0, level)
            for number, start in enumerate(self.starts[1:], 1):
                with em.when(index >= start):
                    em.store(found, 0, const(number))
            level = em.bind("level", load(found, const(0)))
            numbers = [em.bind("number", load(table, level)) for table in tables]
        else:
            numbers = [const(values[0]) for values in self._numbers()]
        first, tiles_wide, height, width, out_height, out_width, in_start, out_start = numbers
        inside = em.bind("inside", index - first)
        row = em.bind("tile_row", inside // tiles_wide)
        last_y, last_x = out_height - self.form.rows, out_width - self.form.columns
        if self.leaves:
            last_y, last_x = tirx.Max(last_y, 0), tirx.Max(last_x, 0)
        y = tirx.Min(row * self.form.rows, last_y)
        x = tirx.Min((inside - row * tiles_wide) * self.form.columns, last_x)
        return Tile(
            level if self.spec.levels else None,
            em.bind("y", y),
            em.bind("x", x),
            height,
            width,
            out_height,
            out_width,
            in_start,
            out_start,
        )
