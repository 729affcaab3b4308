"""Sums of the samples under each window, for odd weights 2w + 1 that do not fit 8 bits."""

from __future__ import annotations

from tvm import tirx

from aqd_deploy.kernels.cpu.amx.frame import Frame
from aqd_deploy.kernels.cpu.amx.tiles import ROW_BYTES
from aqd_deploy.kernels.cpu.emit import Buffer, Emitter, Expr, const, lane_sum, load
from aqd_deploy.kernels.storage.layout import WeightLayout

LANES = 16


class WindowSums:
    """Writes the sums of a task's pixels, tile by tile."""

    def __init__(self, em: Emitter, frame: Frame, layout: WeightLayout, samples: Buffer, plane: int) -> None:
        self.em, self.frame, self.layout, self.samples, self.plane = em, frame, layout, samples, plane
        self.full, self.rest = divmod(layout.segment_length, ROW_BYTES)

    def fill(self, first: Expr, end: Expr, parts: int, origin: Expr) -> Buffer:
        """The sums of tiles `first` … `end` − 1, of one of `parts` parts; `origin` as in `Finish.next`."""
        em, frame = self.em, self.frame
        values = em.alloc("windows", "int32", -(-frame.tiles // parts) * frame.pixels)
        self.ones = em.alloc("ones", "int8", 2 * ROW_BYTES)
        em.store(self.ones, 0, const(1, "int8", ROW_BYTES), ROW_BYTES)
        em.store(self.ones, ROW_BYTES, const(0, "int8", ROW_BYTES), ROW_BYTES)
        for framed in frame.maps:
            begin = em.bind("begin", tirx.Max(first, const(framed.first_tile)))
            count = tirx.Min(end, const(framed.first_tile + framed.tiles)) - begin
            with em.loop("window_tile", tirx.Max(count, const(0))) as tile, em.loop("p", frame.pixels) as p:
                number = em.bind("number", (begin + tile - framed.first_tile) * frame.pixels + p)
                if not frame.copies:
                    # As tiles are: shifted back inside the input.
                    most = frame.spec.height * frame.spec.width - frame.pixels - framed.base
                    start = (begin + tile - framed.first_tile) * frame.pixels
                    number = em.bind("number", tirx.Min(start, const(most)) + p)
                across = frame.spec.strides[1] if frame.copies else 1
                at = em.bind("at", number * across + framed.base - origin)
                total = self._sum(at, framed.width)
                em.store(values, (begin + tile - first) * frame.pixels + p, total)
        return values

    def _sum(self, at: Expr, width: int) -> Expr:
        """Of the window whose first pixel of the frame is `at`."""
        em, spec, layout = self.em, self.frame.spec, self.layout
        lanes = em.alloc("window_lanes", "int32", LANES, "local")
        em.store(lanes, 0, const(0, "int32", LANES), LANES)
        for ky in range(layout.kernel[0]):
            row, plane = divmod(ky * spec.dilations[0], spec.strides[0])
            for segment in range(layout.segments):
                pixel = at + (row * width + segment * spec.dilations[1])
                start = em.bind("start", pixel * spec.in_channels + plane * self.plane)
                if self.full:
                    with em.loop("c", self.full) as c:
                        self._add(lanes, start + c * ROW_BYTES, load(self.ones, const(0), ROW_BYTES))
                if self.rest:
                    ones = load(self.ones, const(ROW_BYTES - self.rest), ROW_BYTES)
                    self._add(lanes, start + self.full * ROW_BYTES, ones)
        return lane_sum(load(lanes, const(0), LANES), LANES)

    def _add(self, lanes: Buffer, at: Expr, ones: Expr) -> None:
        em = self.em
        samples = tirx.reinterpret(f"int8x{ROW_BYTES}", load(self.samples, at, ROW_BYTES))
        operands = (ones, samples) if self.frame.spec.input_signed else (samples, ones)
        name = "llvm.x86.avx512.vpdpbusd.512"
        total = tirx.call_llvm_pure_intrin(f"int32x{LANES}", name, load(lanes, const(0), LANES), *operands)
        em.store(lanes, 0, total, LANES)
