"""Sums of the samples under each window, for odd weights 2w + 1 that do not fit 8 bits: products with ones."""

from __future__ import annotations

from tvm import tirx

from aqd_deploy.kernels.cpu.amx.frame import Frame
from aqd_deploy.kernels.cpu.amx.tiles import ROW_BYTES, ROWS, SUMS, TILE_BYTES, TileUnit
from aqd_deploy.kernels.cpu.emit import Buffer, Emitter, Expr, const, load
from aqd_deploy.kernels.storage.layout import WeightLayout

# Tile registers: sums from 0 on, two of samples in turns, ones for most steps and ones for the last.
_SAMPLES = 4
_ONES = 6


class WindowSums:
    """Writes the sums of a task's pixels, tile by tile."""

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
        self.tile: Buffer = em.alloc("window_tile", "int32", self.high * SUMS)
        self._load_ones()
        for framed in frame.maps:
            begin = em.bind("begin", tirx.Max(first, const(framed.first_tile)))
            count = tirx.Min(end, const(framed.first_tile + framed.tiles)) - begin
            with em.loop("window_tile", tirx.Max(count, const(0))) as tile:
                number = em.bind("number", (begin + tile - framed.first_tile) * frame.pixels)
                if not frame.copies:
                    # As tiles are: shifted back inside the input.
                    most = frame.spec.height * frame.spec.width - frame.pixels - framed.base
                    number = em.bind("number", tirx.Min(number, const(most)))
                across = frame.spec.strides[1] if frame.copies else 1
                self._sum(em.bind("at", number * across + framed.base - origin), framed.width)
                to = em.bind("to", (begin + tile - first) * frame.pixels)
                for pixel in range(frame.pixels):
                    em.store(values, to + pixel, load(self.tile, const(pixel * ROWS)))
        return values

    def _load_ones(self) -> None:
        """The operands that leave out what belongs to no window: 16 output channels of the same weights."""
        em = self.em
        ones = em.alloc("ones", "int32", 2 * TILE_BYTES // 4)
        for half, there in enumerate((self._inside(self.steps == 1, 0), self._inside(True, self.layout.rows - 1))):
            for row in range(ROWS):
                word = sum(there[4 * row + byte] << 8 * byte for byte in range(4))
                em.store(ones, (half * ROWS + row) * 16, const(word, "int32", 16), 16)
            self.unit.load_weights(_ONES + half, ones, const(half * TILE_BYTES // 4))

    def _inside(self, last_step: bool, row: int) -> list[bool]:
        """Which inputs of a step, the last one of a segment, are of the window's folded row `row`."""
        layout = self.layout
        count = layout.segment_length - (self.steps - 1) * ROW_BYTES if last_step else ROW_BYTES
        rows = layout.kernel[0] - row * layout.fold
        return [k < count and k // layout.in_channels % layout.fold < rows for k in range(ROW_BYTES)]

    def _sum(self, at: Expr, width: int) -> None:
        """Of the windows of a tile whose first pixel of the frame is `at`: each in all lanes of its pixel."""
        em, spec, layout = self.em, self.frame.spec, self.layout
        for sums in range(self.high):
            self.unit.clear(sums)
        for ky in range(layout.rows):
            row, plane = divmod(ky * spec.dilations[0], spec.strides[0])
            for segment in range(layout.segments):
                pixel = at + (row * width + segment * spec.dilations[1])
                start = em.bind("start", pixel * spec.in_channels + plane * self.plane)
                if self.steps > 1:
                    with em.loop("c", self.steps - 1) as c:
                        self._add(start + c * ROW_BYTES, _ONES)
                last = self.steps > 1 or ky == layout.rows - 1
                self._add(start + (self.steps - 1) * ROW_BYTES, _ONES + last)
        for sums in range(self.high):
            self.unit.store(sums, self.tile, sums * SUMS)

    def _add(self, at: Expr, ones: int) -> None:
        """A step of all pixels of a tile."""
        pixel = self.frame.spec.strides[1] * self.frame.spec.in_channels
        for i in range(self.high):
            samples = _SAMPLES + i % 2
            self.unit.load(samples, self.samples, at + i * (ROWS * pixel), pixel)
            self.unit.multiply(i, samples, ones)
