"""Sums of the samples under each window, for odd weights 2w + 1 that do not fit 8 bits.

A kernel row meets the same samples in several rows of the output. So the samples of one kernel row are summed
once for every pixel of the frame, as products with 1, and a window is the sum of some of these numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tvm import tirx

from aqd_deploy.kernels.cpu.amx.frame import Frame, FramedMap
from aqd_deploy.kernels.cpu.amx.tiles import ROW_BYTES, ROWS, SUMS, TILE_BYTES, TileUnit
from aqd_deploy.kernels.cpu.emit import Buffer, Emitter, Expr, const, load
from aqd_deploy.kernels.storage.layout import WeightLayout

# Tile registers: sums of as many runs of pixels, which do not wait for each other, two of samples in turns,
# ones for most steps and ones for the last.
_CHAINS = 4
_SAMPLES = 4
_ONES = 6
# Runs whose sums are stored before any is read: tile stores are slow to come back.
_TOGETHER = 16


@dataclass
class _RowSums:
    """The sums of a kernel row that lies in `plane`, at each pixel: `values`. Windows add those of rows
    `down` of the plane. `whole`: whether folding left nothing out.
    """

    plane: int
    whole: bool
    values: Buffer
    down: list[int] = field(default_factory=list)


class WindowSums:
    """Writes the sums of a task's pixels, 16 of them at a time."""

    def __init__(
        self, em: Emitter, unit: TileUnit, frame: Frame, layout: WeightLayout, samples: Buffer, plane: int
    ) -> None:
        self.em, self.unit, self.frame, self.layout = em, unit, frame, layout
        self.samples, self.plane = samples, plane
        self.steps = -(-layout.segment_length // ROW_BYTES)
        # Kernel rows in the last row of the layout, of which folding may have left fewer than in the others.
        self.last_rows = layout.kernel[0] - (layout.rows - 1) * layout.fold

    def fill(self, first: Expr, end: Expr, parts: int, origin: Expr) -> Buffer:
        """The sums of tiles `first` … `end` − 1, of one of `parts` parts; `origin` as in `Finish.next`."""
        em, frame = self.em, self.frame
        values = em.alloc("windows", "int32", -(-frame.tiles // parts) * frame.pixels)
        count = self._numbers(parts)
        lowest = em.bind("lowest", self._lowest(first, count, origin))
        self._load_ones()
        rows = self._rows(count)
        for each in rows:
            self._sum_rows(each, count, lowest * frame.spec.strides[1] - origin)
        for framed in frame.maps:
            begin = tirx.Max(first, const(framed.first_tile))
            stop = em.bind("stop", tirx.Min(end, const(framed.first_tile + framed.tiles)))
            begin = em.bind("begin", tirx.Min(begin, stop))
            with em.loop("tile", stop - begin) as index:
                tile = em.bind("tile", begin + index)
                at = em.bind("at", self._first_number(framed, tile) - lowest)
                for run in range(0, frame.pixels, ROWS):
                    terms = [
                        load(each.values, at + (run + down * framed.pitch), ROWS)
                        for each in rows
                        for down in each.down
                    ]
                    total = sum(terms[1:], terms[0])
                    em.store(values, (tile - first) * frame.pixels + run, total, ROWS)
        return values

    def _numbers(self, parts: int) -> int:
        """How many numbers of a plane the windows of a part are made of."""
        frame, spec = self.frame, self.frame.spec
        if not frame.copies:
            return min(-(-frame.tiles // parts) * frame.pixels, spec.height * spec.width)
        return (frame.plane_pixels(parts) - frame.behind) // spec.strides[1]

    def _lowest(self, first: Expr, count: int, origin: Expr) -> Expr:
        """The first of them."""
        frame, spec = self.frame, self.frame.spec
        if frame.copies:
            return origin // spec.strides[1]
        start = const(0)
        for framed in frame.maps:
            start = tirx.Select(first >= framed.first_tile, self._first_number(framed, first), start)
        return tirx.Min(start, const(spec.height * spec.width - count))

    def _first_number(self, framed: FramedMap, tile: Expr) -> Expr:
        """The number in the planes of all maps at which a tile begins."""
        number = tirx.Min(
            (tile - framed.first_tile) * self.frame.pixels, const(self.frame.last_number(framed))
        )
        return number + framed.base // self.frame.spec.strides[1]

    def _rows(self, count: int) -> list[_RowSums]:
        """What windows are sums of, with buffers for `count` numbers."""
        spec, layout = self.frame.spec, self.layout
        found: dict[tuple[int, bool], _RowSums] = {}
        for ky in range(layout.rows):
            down, plane = divmod(ky * spec.dilations[0], spec.strides[0])
            key = plane, ky < layout.rows - 1 or self.last_rows == layout.fold
            if key not in found:
                found[key] = _RowSums(*key, self.em.alloc("row_sums", "int32", count))
            found[key].down.append(down)
        return list(found.values())

    def _load_ones(self) -> None:
        """The operands that leave out what belongs to no window: 16 output channels of the same weights."""
        em = self.em
        self.sums: Buffer = em.alloc("window_sums", "int32", _TOGETHER * SUMS)
        ones = em.alloc("ones", "int32", 2 * TILE_BYTES // 4)
        layout = self.layout
        most = min(layout.segment_length, ROW_BYTES)
        last = layout.segment_length // layout.fold * self.last_rows - (self.steps - 1) * ROW_BYTES
        for half, count in enumerate((most, last)):
            for row in range(ROWS):
                word = sum((4 * row + byte < count) << 8 * byte for byte in range(4))
                em.store(ones, (half * ROWS + row) * 16, const(word, "int32", 16), 16)
            self.unit.load_weights(_ONES + half, ones, const(half * TILE_BYTES // 4))

    def _sum_rows(self, rows: _RowSums, count: int, base: Expr) -> None:
        """Fills `rows`, whose number 0 is pixel `base` of the samples."""
        em, runs, across = self.em, -(-count // ROWS), self.frame.spec.strides[1]
        base = em.bind("base", base)
        with em.loop("together", -(-runs // _TOGETHER)) as together:
            first = em.bind("first_run", together * _TOGETHER)
            last = em.bind("last_run", tirx.Min(const(runs - 1) - first, const(_TOGETHER - 1)))
            with em.loop("four", (last + _CHAINS) // _CHAINS) as four:
                chains = [em.bind("run", tirx.Min(four * _CHAINS + i, last)) for i in range(_CHAINS)]
                starts = [_number(first + run, count) * across + base for run in chains]
                self._products(rows, [em.bind("start", start) for start in starts])
                for sums, run in enumerate(chains):
                    self.unit.store(sums, self.sums, run * SUMS)
            with em.loop("run", last + 1) as run:
                to = em.bind("to", _number(first + run, count))
                with em.loop("pixel", ROWS) as pixel:
                    em.store(rows.values, to + pixel, load(self.sums, run * SUMS + pixel * 16))

    def _products(self, rows: _RowSums, starts: list[Expr]) -> None:
        """The sums of 16 pixels from each of `starts` on, each in all lanes of its pixel."""
        spec, layout = self.frame.spec, self.layout
        for sums in range(_CHAINS):
            self.unit.clear(sums)
        for segment in range(layout.segments):
            at = segment * spec.dilations[1] * spec.in_channels + rows.plane * self.plane
            if self.steps > 1:
                with self.em.loop("c", self.steps - 1) as c:
                    self._step(starts, at + c * ROW_BYTES, _ONES)
            last = self.steps > 1 or not rows.whole
            self._step(starts, const(at + (self.steps - 1) * ROW_BYTES), _ONES + last)

    def _step(self, starts: list[Expr], at: Expr, ones: int) -> None:
        channels = self.frame.spec.in_channels
        pixel = self.frame.spec.strides[1] * channels
        for sums, start in enumerate(starts):
            samples = _SAMPLES + sums % 2
            self.unit.load(samples, self.samples, start * channels + at, pixel)
            self.unit.multiply(sums, samples, ones)


def _number(run: Expr, count: int) -> Expr:
    """The first number of a run of 16; the last run is shifted back."""
    return tirx.Min(run * ROWS, const(count - ROWS))
