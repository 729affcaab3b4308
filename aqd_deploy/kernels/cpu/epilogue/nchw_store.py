"""The int32 stream of a convolution stored as network outputs, [1, C, H, W] a map, without a pass of its own.

A row of register tiles is staged [pixels, channels] in the first cache and transposed from there in squares,
so each channel gets runs of neighbouring pixels.
"""

from __future__ import annotations

from collections.abc import Iterator

from tvm import tirx

from aqd_deploy.kernels.contract.spec import ConvSpec, Epilogue, Map, StoreBorder
from aqd_deploy.kernels.cpu.emit import Buffer, Emitter, Expr, const, load
from aqd_deploy.kernels.cpu.movement.pyramid_stack import transposed


def stores_borders(epilogue: Epilogue) -> bool:
    """Whether a `StoreBorder` is its store."""
    return any(isinstance(store, StoreBorder) for store in epilogue.stores)


def declare_borders(em: Emitter, spec: ConvSpec) -> list[Buffer]:
    """One output [1, C, H, W] for each of `spec.maps`."""
    return [
        em.parameter("border", (1, spec.out_channels, m.out_height, m.out_width), "int32") for m in spec.maps
    ]


class BorderStage:
    """The staged pixels of one row of register tiles: `rows` rows of `m`, `blocks` vectors of channels."""

    def __init__(self, em: Emitter, out: Buffer, m: Map, channels: int, tile: tuple[int, int, int]) -> None:
        rows, self.blocks, self.lanes = tile
        self.em, self.out, self.map, self.channels = em, out, m, channels
        self.pixels = rows * m.out_width
        self.width = self.blocks * self.lanes
        self.staged = em.alloc("staged", "int32", self.pixels * self.width)

    def put(self, pixel: Expr, channel: Expr, value: Expr, count: int) -> None:
        """`count` channels of the stage from `channel` on, of its pixel `pixel`."""
        self.em.store(self.staged, pixel * self.width + channel, value, count)

    def flush(self, top: Expr, block: Expr) -> None:
        """Write the stage, which begins at row `top` of the map and at vector `block` of its channels."""
        em, lanes = self.em, self.lanes
        full_blocks, rest = divmod(self.channels, lanes)
        first = em.bind("first", top * self.map.out_width)
        with em.loop("b", self.blocks) as b:
            if full_blocks:
                with em.when(block + b < full_blocks) if rest else em.always():
                    self._squares(first, (block + b) * lanes, b * lanes)
            if rest:
                with (
                    em.when(block + b >= full_blocks),
                    em.loop("lane", rest) as lane,
                    em.loop("pixel", self.pixels) as pixel,
                ):
                    value = load(self.staged, pixel * self.width + (b * lanes + lane))
                    at = ((block + b) * lanes + lane) * self._plane + (first + pixel)
                    em.store(self.out, at, value)

    @property
    def _plane(self) -> int:
        return self.map.out_height * self.map.out_width

    def _squares(self, first: Expr, channel: Expr, staged_channel: Expr) -> None:
        """All pixels of `lanes` channels, in the largest squares that fit; the last are shifted back."""
        em, lanes = self.em, self.lanes
        side = 1 << (min(self.pixels, lanes).bit_length() - 1)
        with (
            em.loop("across", -(-self.pixels // side)) as across,
            em.loop("down", lanes // side) as down,
        ):
            pixel = em.bind("pixel", tirx.Min(across * side, const(self.pixels - side)))
            base = em.bind("base", pixel * self.width + staged_channel + down * side)
            rows = [em.bind("row", load(self.staged, base + i * self.width, side)) for i in range(side)]
            to = em.bind("to", (channel + down * side) * self._plane + (first + pixel))
            for i, row in enumerate(transposed(em, rows)):
                em.store(self.out, to + i * self._plane, row, side)


class BorderTile:
    """One block of a tile's outputs, `rows` × `columns` vectors of `lanes` channels, stored to the border of
    the tile's map. `rows`·`columns` is a multiple of `lanes`; `staged` is int32 scratch of all of them.
    """

    def __init__(
        self,
        em: Emitter,
        borders: list[Buffer],
        spec: ConvSpec,
        size: tuple[int, int],
        lanes: int,
        staged: Buffer,
    ) -> None:
        self.em, self.borders, self.spec, self.lanes, self.staged = em, borders, spec, lanes, staged
        self.rows, self.columns = size

    def store(self, values: list[Expr], level: Expr, at: tuple[Expr, Expr], channel: Expr) -> None:
        """`values`, row by row, of the tile that begins at the row and column `at` of map `level`; `channel`
        is the first of their channels, which all exist.
        """
        em = self.em
        self._transpose(values)
        inside = em.alloc("inside", "int32", 1)
        for m, out in self._maps(level):
            fits = tirx.all(at[0] + self.rows <= m.out_height, at[1] + self.columns <= m.out_width)
            em.store(inside, 0, tirx.Select(fits, const(1), const(0)))
            first = em.bind("first", (channel * m.out_height + at[0]) * m.out_width + at[1])
            with (
                em.when(load(inside, const(0)) > 0),
                em.loop("lane", self.lanes) as lane,
                em.loop("py", self.rows) as py,
            ):
                run = load(self.staged, self._staged(lane, py, 0), self.columns)
                em.store(out, first + (lane * m.out_height + py) * m.out_width, run, self.columns)
            with (
                em.when(load(inside, const(0)) < 1),
                em.loop("lane", self.lanes) as lane,
                em.loop("py", self.rows) as py,
                em.loop("px", self.columns) as px,
            ):
                value = load(self.staged, self._staged(lane, py, px))
                self._store_one(out, m, (at[0] + py, at[1] + px), channel + lane, value)

    def prefetch(self, level: Expr, at: tuple[Expr, Expr], channel: Expr) -> None:
        """Asks for the rows that `store` will write."""
        em = self.em
        for m, out in self._maps(level):
            first = em.bind("first", (channel * m.out_height + at[0]) * m.out_width + at[1])
            with em.loop("lane", self.lanes) as lane, em.loop("py", self.rows) as py:
                em.prefetch(out, first + (lane * m.out_height + py) * m.out_width, level=1)

    def _transpose(self, values: list[Expr]) -> None:
        """Stages `values` and brings them in the order of `_staged`, in squares of `lanes` outputs.

        By way of memory: what is loaded is not computed again where it is used, as the simplifier does it
        with sums and shuffles.
        """
        em, lanes = self.em, self.lanes
        for o, value in enumerate(values):
            em.store(self.staged, o * lanes, value, lanes)
        for start in range(0, len(values) * lanes, lanes * lanes):
            square = [load(self.staged, const(start + i * lanes), lanes) for i in range(lanes)]
            turned = transposed(em, [em.bind("row", row) for row in square])
            for lane, row in enumerate(turned):
                em.store(self.staged, start + lane * lanes, row, lanes)

    def _staged(self, lane: Expr, py: Expr, px: Expr | int) -> Expr:
        """Where the value of a channel and pixel lies: [square, channel, pixel of the square]."""
        rows = self.lanes // self.columns
        return ((py // rows * self.lanes + lane) * rows + py % rows) * self.columns + px

    def store_one(self, value: Expr, level: Expr, at: tuple[Expr, Expr], channel: Expr) -> None:
        """One value of one channel at the row and column `at` of map `level`, if it has them."""
        for m, out in self._maps(level):
            self._store_one(out, m, at, channel, value)

    def _store_one(self, out: Buffer, m: Map, at: tuple[Expr, Expr], channel: Expr, value: Expr) -> None:
        y, x = at
        with self.em.when(tirx.all(y < m.out_height, x < m.out_width)):
            self.em.store(out, (channel * m.out_height + y) * m.out_width + x, value)

    def _maps(self, level: Expr) -> Iterator[tuple[Map, Buffer]]:
        """Every map and its output, in the branch where it is map `level`.

        The branches look at memory: the simplifier takes minutes for what it knows about variables.
        """
        em = self.em
        which = em.alloc("which", "int32", 1)
        em.store(which, 0, level)
        for index, (m, out) in enumerate(zip(self.spec.maps, self.borders, strict=True)):
            with em.when(tirx.EQ(load(which, const(0)), index)) if len(self.borders) > 1 else em.always():
                yield m, out
