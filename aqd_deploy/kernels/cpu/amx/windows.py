"""Sums of the samples under each window, for odd weights 2w + 1 that do not fit 8 bits: products with 1."""

from __future__ import annotations

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
# Tiles whose sums are stored before any is read: tile stores are slow to come back.
_TOGETHER = 8


class WindowSums:
    """Writes the sums of a task's pixels, 16 of them at a time."""

    def __init__(
        self, em: Emitter, unit: TileUnit, frame: Frame, layout: WeightLayout, samples: Buffer, plane: int
    ) -> None:
        self.em, self.unit, self.frame, self.layout = em, unit, frame, layout
        self.samples, self.plane = samples, plane
        self.high = frame.pixels // ROWS
        self.steps = -(-layout.segment_length // ROW_BYTES)

    def fill(self, first: Expr, end: Expr, parts: int, origin: Expr) -> Buffer:
        """The sums of tiles `first` … `end` − 1, of one of `parts` parts; `origin` as in `Finish.next`."""
        em, frame = self.em, self.frame
        values = em.alloc("windows", "int32", -(-frame.tiles // parts) * frame.pixels)
        self.sums: Buffer = em.alloc("window_sums", "int32", _TOGETHER * frame.pixels * ROWS)
        self._load_ones()
        for framed in frame.maps:
            begin = tirx.Max(first, const(framed.first_tile))
            stop = em.bind("stop", tirx.Min(end, const(framed.first_tile + framed.tiles)))
            begin = em.bind("begin", tirx.Min(begin, stop))
            with em.loop("together", (stop - begin + (_TOGETHER - 1)) // _TOGETHER) as together:
                tile = em.bind("tile", begin + together * _TOGETHER)
                count = em.bind("count", tirx.Min(stop - tile, const(_TOGETHER)))
                last = em.bind("last", count * self.high - 1)
                with em.loop("four", (last + _CHAINS) // _CHAINS) as four:
                    runs = [em.bind("run", tirx.Min(four * _CHAINS + i, last)) for i in range(_CHAINS)]
                    self._four(framed, tile - framed.first_tile, runs, origin)
                with em.loop("window", count * frame.pixels) as window:
                    value = load(self.sums, window * ROWS)
                    em.store(values, (tile - first) * frame.pixels + window, value)
        return values

    def _four(self, framed: FramedMap, tile: Expr, runs: list[Expr], origin: Expr) -> None:
        """The sums of some of the runs of 16 pixels of a map from tile `tile` on."""
        starts = [self.em.bind("start", self._start(framed, tile, run) - origin) for run in runs]
        self._products(starts, framed.width)
        for sums, run in enumerate(runs):
            self.unit.store(sums, self.sums, run * SUMS)

    def _start(self, framed: FramedMap, tile: Expr, run: Expr) -> Expr:
        """The pixel of all frames at which the samples of a run begin."""
        frame = self.frame
        number = tirx.Min((tile + run // self.high) * frame.pixels, const(frame.last_number(framed)))
        return (number + run % self.high * ROWS) * frame.spec.strides[1] + framed.base

    def _load_ones(self) -> None:
        """The operands that leave out what belongs to no window: 16 output channels of the same weights."""
        em = self.em
        ones = em.alloc("ones", "int32", 2 * TILE_BYTES // 4)
        layout = self.layout
        most = min(layout.segment_length, ROW_BYTES)
        # Of the last row, of which folding may have left less.
        rows = layout.kernel[0] - (layout.rows - 1) * layout.fold
        last = layout.segment_length // layout.fold * rows - (self.steps - 1) * ROW_BYTES
        for half, count in enumerate((most, last)):
            for row in range(ROWS):
                word = sum((4 * row + byte < count) << 8 * byte for byte in range(4))
                em.store(ones, (half * ROWS + row) * 16, const(word, "int32", 16), 16)
            self.unit.load_weights(_ONES + half, ones, const(half * TILE_BYTES // 4))

    def _products(self, starts: list[Expr], width: int) -> None:
        """The sums of the windows of 16 pixels from each of `starts` on, each in all lanes of its pixel."""
        em, spec, layout = self.em, self.frame.spec, self.layout
        for sums in range(_CHAINS):
            self.unit.clear(sums)
        for ky in range(layout.rows):
            row, plane = divmod(ky * spec.dilations[0], spec.strides[0])
            for segment in range(layout.segments):
                pixel = row * width + segment * spec.dilations[1]
                at = pixel * spec.in_channels + plane * self.plane
                if self.steps > 1:
                    with em.loop("c", self.steps - 1) as c:
                        self._step(starts, at + c * ROW_BYTES, _ONES)
                last = self.steps > 1 or ky == layout.rows - 1
                self._step(starts, const(at + (self.steps - 1) * ROW_BYTES), _ONES + last)

    def _step(self, starts: list[Expr], at: Expr, ones: int) -> None:
        channels = self.frame.spec.in_channels
        pixel = self.frame.spec.strides[1] * channels
        for sums, start in enumerate(starts):
            samples = _SAMPLES + sums % 2
            self.unit.load(samples, self.samples, start * channels + at, pixel)
            self.unit.multiply(sums, samples, ones)
