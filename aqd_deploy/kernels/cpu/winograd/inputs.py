"""The inputs of a Winograd function's tiles: copied, padded with zeros, and transformed into samples of 8
bits (shifted to what the dot product takes; the start values of the packed weights take that back) or 16.
Sums of samples may wrap: what comes out is proven to fit.
"""

from __future__ import annotations

from tvm import tirx

from aqd_deploy.kernels.cpu.emit import Buffer, Expr, const, convert, lane_sum, load, vector
from aqd_deploy.kernels.cpu.winograd.function import WinogradFunction
from aqd_deploy.kernels.cpu.winograd.tiles import Tile
from aqd_deploy.kernels.winograd.forms import SHIFT

# Transforms and window sums take channels in vectors of this many at least.
CHANNELS = 16
# Vectors of a pixel that are copied one by one.
MOST_UNROLLED = 8


class InputTransform:
    """Writes the samples of tiles; `sums` are the window sums of halved forms, int32 [tiles, outputs]."""

    def __init__(self, function: WinogradFunction, samples: Buffer, sums: Buffer | None) -> None:
        self.function, self.em, self.spec = function, function.em, function.spec
        self.dots, self.form, self.dtype = function.dots, function.form, function.dtype
        self.high, self.wide = function.high, function.wide
        full = self.dots.lanes * self.dots.dot
        self.lanes = full if full > CHANNELS and self.spec.in_channels % full == 0 else CHANNELS
        self.samples, self.sums = samples, sums
        em, pixels = self.em, self.high * self.wide
        self.patch = em.alloc("patch", self.dtype, pixels * self.spec.in_channels)
        self.pixel_sums = em.alloc("pixel_sums", "int32", pixels) if self.form.halved else None

    def emit(self, tile: Tile, t: Expr) -> None:
        """The samples of `tile`, the one with number `t` of the task's."""
        self._fill(tile, self.patch, self.pixel_sums)
        self._transform(self.patch, t, self.samples)
        if self.pixel_sums is not None:
            self._window_sums(self.pixel_sums, t, self.sums)

    def _fill(self, tile: Tile, patch: Buffer, sums: Buffer | None) -> None:
        """Samples of one tile, zeros where it leaves the map, and the sum of every pixel's channels."""
        em, channels, lanes = self.em, self.spec.in_channels, self.lanes
        top = em.bind("top", tile.y - self.spec.pads[0])
        left = em.bind("left", tile.x - self.spec.pads[1])
        with em.loop("py", self.high) as i, em.loop("px", self.wide) as j:
            y, x = em.bind("iy", top + i), em.bind("ix", left + j)
            known = em.bind("known", tirx.all(y >= 0, y < tile.height, x >= 0, x < tile.width))
            at = em.bind("patch_pixel", i * self.wide + j)
            source = em.bind("source", (tile.in_start + y * tile.width + x) * channels)
            with em.when(known):
                total = self._no_sum() if sums is not None else None
                # As a loop LLVM makes it a memcpy, in halves of vectors: loads of whole ones wait for them.
                vectors = channels // lanes
                with em.loop("c", vectors, "unrolled" if vectors <= MOST_UNROLLED else "serial") as c:
                    pixel = load(self.function.data, source + c * lanes, lanes)
                    sample = em.bind("sample", self._sample(pixel, lanes))
                    em.store(patch, at * channels + c * lanes, sample, lanes)
                    if total is not None:
                        self._add_channels(total, source + c * lanes, sample)
                if total is not None:
                    em.store(sums, at, self._channel_sum(total))
            with em.when(tirx.Not(known)):
                with em.loop("c", channels // lanes) as c:
                    em.store(patch, at * channels + c * lanes, const(0, self.dtype, lanes), lanes)
                if sums is not None:
                    em.store(sums, at, const(0))

    def _sample(self, value: Expr, lanes: int) -> Expr:
        """An activation as it is transformed; in 8 bits the same bits, since sums wrap alike."""
        if self.form.wide:
            return convert(value, self.dtype, lanes)
        return tirx.reinterpret(vector(self.dtype, lanes), value) if self.spec.input_signed else value

    def _transform(self, patch: Buffer, t: Expr, samples: Buffer) -> None:
        em, form, channels, lanes = self.em, self.form, self.spec.in_channels, self.lanes
        tiles = self.function.plan.tiles
        of_set, j = em.bind("set", t // tiles), em.bind("j", t % tiles)
        to = em.bind("to", (of_set * (self.form.positions * tiles) + j) * channels)
        with em.loop("c", channels // lanes) as block:
            c = em.bind("c", block * lanes)
            tile = [
                [
                    em.bind("d", load(patch, (i * self.wide + j) * channels + c, lanes))
                    for j in range(self.wide)
                ]
                for i in range(self.high)
            ]
            for position, value in enumerate(form.input_transform(tile, self.function.named)):
                at = to + position * (tiles * channels) + c
                shift = self.function.layout.shifts[position]
                shifted = value + const(shift % 256, self.dtype, lanes) if shift else value
                em.store(samples, at, shifted, lanes)

    def _no_sum(self) -> Buffer:
        """Where the channels of a pixel are summed, int32 [lanes]."""
        total = self.em.alloc("total", "int32", self.dots.lanes, "local")
        self.em.store(total, 0, const(0, "int32", self.dots.lanes), self.dots.lanes)
        return total

    def _add_channels(self, total: Buffer, start: Expr, sample: Expr) -> None:
        """Adds the activations from `start` on, whose samples are `sample`."""
        em, dots, lanes = self.em, self.dots, self.lanes
        wide = dots.lanes
        so_far = load(total, const(0), wide)
        if self._sums_samples:
            if self._sums_shifted:
                sample = sample + const(SHIFT, "uint8", lanes)
            sample = tirx.reinterpret(vector("int8", lanes), sample)
            so_far = dots.accumulate(so_far, sample, const(1, "int8", lanes))
        else:
            for part in range(0, lanes, wide):
                so_far = so_far + convert(load(self.function.data, start + part, wide), "int32", wide)
        em.store(total, 0, so_far, wide)

    def _channel_sum(self, total: Buffer) -> Expr:
        """Sum over the channels of one pixel, whose samples are not all padding."""
        value = lane_sum(load(total, const(0), self.dots.lanes), self.dots.lanes)
        return value - const(SHIFT * self.spec.in_channels) if self._sums_shifted else value

    @property
    def _sums_samples(self) -> bool:
        """Whether channels are summed by dot products, of whole vectors of samples."""
        return self.lanes == self.dots.lanes * self.dots.dot

    @property
    def _sums_shifted(self) -> bool:
        """Whether the samples that are summed are 128 higher: those of signed inputs, where dot products take
        unsigned bytes. Signed bytes hold every activation that fits a form.
        """
        return self._sums_samples and self.spec.input_signed and not self.dots.signed_bytes

    def _window_sums(self, pixel_sums: Buffer, t: Expr, sums: Buffer) -> None:
        """Sum over the window of every output pixel of the tile, along rows first."""
        em, columns = self.em, self.form.columns
        rows = []
        for i in range(self.high):
            near, middle, far = (load(pixel_sums, const(i * self.wide + j), columns) for j in range(3))
            rows.append(em.bind("row", near + middle + far))
        for y in range(self.form.rows):
            at = t * self.function.outputs + y * columns
            em.store(sums, at, rows[y] + rows[y + 1] + rows[y + 2], columns)
