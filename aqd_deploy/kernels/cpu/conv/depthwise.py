"""Depthwise convolution: a vector of channels at a time, each channel with its own kernel.

There is nothing to sum over channels. Where the ranges prove that the sums of a whole window fit 16 bits,
they are computed there, twice as many lanes at a time; otherwise in 32 bits, by products of words where they
are faster. A register tile is a few pixels of one vector of channels, so each weight is loaded and widened
once a tile, and each sample once a row of taps. Odd weights need no window sum here: 2w + 1 is computed on
the way.
"""

from __future__ import annotations

from itertools import product
from math import prod
from typing import Any

from tvm import tirx

from aqd_deploy.integer.types import is_signed
from aqd_deploy.kernels.contract.caches import Core
from aqd_deploy.kernels.contract.choice import Choice
from aqd_deploy.kernels.contract.kernel import Layout
from aqd_deploy.kernels.contract.spec import ConvSpec, Epilogue, Map
from aqd_deploy.kernels.cpu.conv.family import Family
from aqd_deploy.kernels.cpu.conv.maps import conv_maps
from aqd_deploy.kernels.cpu.conv.padded_rows import PaddedRows, Window, padded_rows, padded_tile
from aqd_deploy.kernels.cpu.emit import Buffer, Emitter, Expr, const, convert, load
from aqd_deploy.kernels.cpu.epilogue.epilogue import BoundEpilogue, Place
from aqd_deploy.kernels.cpu.isa.dot_product import DotProduct
from aqd_deploy.kernels.cpu.isa.exactness import sample_range
from aqd_deploy.kernels.cpu.isa.select import instruction_set, portable_entry, vector_dots
from aqd_deploy.kernels.storage.layout import WeightLayout
from aqd_deploy.targets.isa import Isa

# Rows of output that one task computes from one padded copy, and pixels of a register tile.
ROWS = 8
PIXELS = 4
# Native samples: the portable product takes them as they are.
_NATIVE = portable_entry().products[-1]
# By products of four taps, of which each tile interleaves the weights.
QUAD_PIXELS = 8


def is_depthwise(spec: ConvSpec) -> bool:
    """One input and one output channel a group."""
    return spec.group > 1 and spec.group == spec.in_channels == spec.out_channels


def sums_fit_16_bits(spec: ConvSpec) -> bool:
    """No partial sum of a window can leave int16: its products have a proven largest absolute value."""
    if spec.weight_range is None:
        return False
    weights = [2 * w + 1 if spec.odd else w for w in spec.weight_range]
    largest = max(abs(x * w) for x in sample_range(spec) for w in weights)
    return prod(spec.kernel) * largest < 2**15


def quad_product(spec: ConvSpec, isa: Isa) -> DotProduct | None:
    """The product of four bytes a lane for four taps of a column; None where there is none, or weights do not
    fit bytes.
    """
    dots = vector_dots(spec, isa)
    fits = dots is not None and dots.dot == 4 and instruction_set(isa).depthwise_lanes % dots.lanes == 0
    return dots if fits and not spec.odd else None


def depthwise_layout(spec: ConvSpec, isa: Isa) -> WeightLayout:
    """[C/lanes, kh, 1, kw, lanes, 1]; twice as many lanes where sums fit 16 bits, and where two vectors
    become bytes together.
    """
    entry = instruction_set(isa)
    lanes = entry.depthwise_lanes
    wide = sums_fit_16_bits(spec) or (entry.packing is not None and entry.word_pairs is not None)
    wide = wide and spec.out_channels >= 2 * lanes
    return WeightLayout(spec.out_channels, 1, spec.kernel, 2 * lanes if wide else lanes, 1)


def conv_depthwise(spec: ConvSpec, epilogue: Epilogue, isa: Isa, threads: int) -> Any:
    """PrimFunc of a depthwise convolution; parameters as in `spec.Epilogue`."""
    layout = depthwise_layout(spec, isa)

    def code(em: Emitter, place: Map, weights: Buffer, bound: BoundEpilogue) -> _MapConv:
        return _MapConv(em, spec, place, isa, layout, weights, bound)

    return conv_maps(spec, epilogue, isa, layout, threads, code)


class _MapConv:
    """Writes the code of one map."""

    def __init__(
        self,
        em: Emitter,
        spec: ConvSpec,
        place: Map,
        isa: Isa,
        layout: WeightLayout,
        weights: Buffer,
        bound: BoundEpilogue,
    ) -> None:
        self.em, self.map, self.layout, self.weights, self.bound = em, place, layout, weights, bound
        self.spec = spec.alone(place)
        # Sums of 32 bits where lanes are few, whatever the ranges allow.
        self.narrow = instruction_set(isa).depthwise_lanes
        self.dtype = "int16" if layout.lanes > self.narrow and sums_fit_16_bits(spec) else "int32"
        self.pairs = instruction_set(isa).word_pairs if self.dtype == "int32" else None
        self.quads = quad_product(spec, isa) if self.dtype == "int32" else None
        self.rows = min(ROWS, self.spec.out_height)
        # Tiles of equal width: where the last one is shifted back, it computes values again.
        most = QUAD_PIXELS if self.quads else PIXELS
        self.pixels = -(-self.spec.out_width // -(-self.spec.out_width // most))
        self.tasks = -(-self.spec.out_height // self.rows)
        counts = (self.rows, self.pixels)
        # Rows and columns of the input that a tile's columns need in all rows of a task.
        self.window = [
            (count - 1) * stride + (taps - 1) * step + 1
            for count, stride, taps, step in zip(
                counts, spec.strides, spec.kernel, spec.dilations, strict=True
            )
        ]
        # The last vector of channels reads behind its pixel; behind the last pixel a copy has room for it.
        self.slack = -self.spec.out_channels % layout.lanes

    def emit(self, task: Expr, data: Buffer, level: Expr | None) -> None:
        """One task: `rows` rows of all channels."""
        em, spec = self.em, self.spec
        self.top = em.bind("top", tirx.Min(task * self.rows, const(spec.out_height - self.rows)))
        self.level = level
        self.values = em.alloc("tile", "int32", self.pixels * self.layout.lanes)
        if self.pairs is not None:
            taps = -(-spec.kernel[0] // 2) * spec.kernel[1]
            self.pair_weights = em.alloc("pairs", "int16", 2 * taps * self.layout.lanes)
        copies = any(spec.pads) or self.slack > 0
        by_tile = copies and self._tiles_inside()
        if by_tile:
            copy = em.alloc("padded", data.dtype, prod(self.window) * spec.in_channels + self.slack)
        else:
            start = self.map.in_start
            rows = padded_rows(em, spec, _NATIVE, data, self.top, self.rows, copies, self.slack, start)
        with em.loop("tx", -(-spec.out_width // self.pixels)) as tx:
            x = em.bind("x", tirx.Min(tx * self.pixels, const(spec.out_width - self.pixels)))
            if by_tile:
                self._read_or_copied(x, data, copy)
            else:
                self._tile(x, rows.at_channel(x * (spec.strides[1] * spec.in_channels)))

    def _read_or_copied(self, x: Expr, data: Buffer, copy: Buffer) -> None:
        """`_tile` on the input where its window lies inside the map, else on a copy of the window."""
        em, spec, start = self.em, self.spec, self.map.in_start
        row, column = self.top * spec.strides[0] - spec.pads[0], x * spec.strides[1] - spec.pads[1]
        window = Window(em.bind("first_row", row), em.bind("first_column", column), *self.window)
        line = spec.width * spec.in_channels
        first = window.top * line + (window.left + start) * spec.in_channels
        inside = em.bind("inside", tirx.all(*self._limits(window.top, window.left)))
        with em.when(inside):
            self._tile(x, PaddedRows(data, em.bind("origin", first), line))
        with em.when(tirx.Not(inside)):
            self._tile(x, padded_tile(em, spec, _NATIVE, data, copy, window, start))

    def _limits(self, top: Any, left: Any) -> tuple[Any, ...]:
        """What holds where a tile's window that begins there lies inside the map, with what is read behind
        it.
        """
        bottom = self.spec.height - self.window[0] - (1 if self.slack else 0)
        return top >= 0, top <= bottom, left >= 0, left <= self.spec.width - self.window[1]

    def _tiles_inside(self) -> bool:
        """Whether any tile's window lies inside the map."""
        places = (
            {min(i * count, size - count) * stride - pad for i in range(-(-size // count))}
            for count, size, stride, pad in zip(
                (self.rows, self.pixels),
                (self.spec.out_height, self.spec.out_width),
                self.spec.strides,
                self.spec.pads,
                strict=False,
            )
        )
        return any(all(self._limits(*place)) for place in product(*places))

    def _tile(self, x: Expr, strip: PaddedRows) -> None:
        """All channels of the columns from `x` on, in every row of the task."""
        em = self.em
        if self.pairs is not None and self.quads is None:
            self._rows_of_pairs(self.pairs, x, strip)
            return
        with em.loop("y", self.rows) as y, em.loop("block", self.layout.blocks) as block:
            self._reduce(strip, y, block, self.values)
            self._finish_pixels(x, y, block)

    def _rows_of_pairs(self, dots: DotProduct, x: Expr, strip: PaddedRows) -> None:
        """`_tile` by products of word pairs, whose weights are prepared once for all rows."""
        em = self.em
        with em.loop("block", self.layout.blocks) as block:
            self._prepare_pairs(dots, block)
            with em.loop("y", self.rows) as y:
                self._reduce(strip, y, block, self.values)
                self._finish_pixels(x, y, block)

    def _finish_pixels(self, x: Expr, y: Expr, block: Expr) -> None:
        """The epilogue of a tile's row."""
        em, spec = self.em, self.spec
        with em.loop("px", self.pixels) as px:
            row, column = em.bind("row", self.top + y), em.bind("column", x + px)
            pixel = row * spec.out_width + (column + self.map.out_start)
            self._finish(Place(pixel, row, column, self.level), px, block, self.values)

    def _reduce(self, strip: PaddedRows, y: Expr, block: Expr, values: Buffer) -> None:
        """The sums of one tile, left in `values` [pixel, lane]."""
        em, spec, lanes, dtype = self.em, self.spec, self.layout.lanes, self.dtype
        accs = [em.alloc("acc", dtype, lanes, "local") for _ in range(self.pixels)]
        for acc in accs:
            em.store(acc, 0, const(0, dtype, lanes), lanes)
        at = em.bind("at", strip.origin + y * spec.strides[0] * strip.row_stride + block * lanes)
        if self.quads is not None:
            self._add_quads(self.quads, accs, strip, at, block)
        elif self.pairs is not None:
            self._add_pairs(self.pairs, accs, strip, at, block)
        else:
            self._add_rows(accs, strip, at, block)
        for i, acc in enumerate(accs):
            em.store(values, i * lanes, convert(load(acc, const(0), lanes), "int32", lanes), lanes)

    def _add_rows(self, accs: list[Buffer], strip: PaddedRows, at: Expr, block: Expr) -> None:
        """Row by row of taps; `at` is the first sample."""
        em, spec, lanes = self.em, self.spec, self.layout.lanes
        kh, kw = spec.kernel
        with em.loop("ky", kh) as ky:
            row = em.bind("row", at + ky * spec.dilations[0] * strip.row_stride)
            place = em.bind("place", (block * kh + ky) * (kw * lanes))
            weights = [self._weight(load(self.weights, place + kx * lanes, lanes)) for kx in range(kw)]
            for offset, users in self._taps(accs):
                sample = load(strip.samples, row + offset * spec.in_channels, lanes)
                sample = em.bind("s", convert(sample, self.dtype, lanes))
                for acc, kx in users:
                    em.store(acc, 0, load(acc, const(0), lanes) + sample * weights[kx], lanes)

    def _add_quads(
        self, dots: DotProduct, accs: list[Buffer], strip: PaddedRows, at: Expr, block: Expr
    ) -> None:
        """Four rows of taps at a time: each lane has four bytes of a column, samples as weights."""
        em, spec, lanes = self.em, self.spec, self.layout.lanes
        kh, kw = spec.kernel
        for first in range(0, kh, 4):
            rows = range(first, min(first + 4, kh))
            weights = []
            for kx in range(kw):
                places = [(block * kh + ky) * (kw * lanes) + kx * lanes for ky in rows]
                taps = [load(self.weights, place, lanes) for place in places]
                none = const(0, "int8", lanes)
                weights.append(em.bind("w", _interleaved([*taps, *[none] * (4 - len(taps))], lanes)))
            if dots.offset:
                self._start(dots, accs, weights)
            for offset, users in self._taps(accs):
                starts = [at + ky * spec.dilations[0] * strip.row_stride for ky in rows]
                bytes_ = [load(strip.samples, s + offset * spec.in_channels, lanes) for s in starts]
                # What stands in for a missing row meets weights of 0.
                sample = _interleaved([*bytes_, *bytes_[:1] * (4 - len(bytes_))], lanes)
                sample = tirx.reinterpret(f"{dots.sample_dtype}x{4 * lanes}", sample)
                if dots.offset:
                    sample = tirx.bitwise_xor(sample, _sign_bits(dots, lanes))
                sample = em.bind("s", sample)
                for acc, kx in users:
                    self._accumulate(dots, acc, sample, weights[kx])

    def _add_pairs(
        self, dots: DotProduct, accs: list[Buffer], strip: PaddedRows, at: Expr, block: Expr
    ) -> None:
        """Two rows of taps at a time: each lane has two words of a column."""
        em, spec, lanes = self.em, self.spec, self.layout.lanes
        kh, kw = spec.kernel
        words = 2 * dots.lanes
        for first, part in product(range(0, kh, 2), range(0, lanes, dots.lanes)):
            rows = range(first, min(first + 2, kh))
            places = [self._pair_place(first, kx, part) for kx in range(kw)]
            weights = [em.bind("w", load(self.pair_weights, place, words)) for place in places]
            for offset, users in self._taps(accs):
                starts = [at + ky * spec.dilations[0] * strip.row_stride for ky in rows]
                places = [start + (offset * spec.in_channels + part) for start in starts]
                sample = em.bind("s", _words([load(strip.samples, each, dots.lanes) for each in places]))
                for acc, kx in users:
                    total = dots.accumulate(load(acc, const(part), dots.lanes), sample, weights[kx])
                    em.store(acc, part, total, dots.lanes)

    def _prepare_pairs(self, dots: DotProduct, block: Expr) -> None:
        """Writes the words of a block's weights into `pair_weights`."""
        em, lanes = self.em, self.layout.lanes
        kh, kw = self.spec.kernel
        for first, kx, part in product(range(0, kh, 2), range(kw), range(0, lanes, dots.lanes)):
            rows = range(first, min(first + 2, kh))
            places = [(block * kh + ky) * (kw * lanes) + (kx * lanes + part) for ky in rows]
            words = self._pair_weight([load(self.weights, each, dots.lanes) for each in places])
            em.store(self.pair_weights, self._pair_place(first, kx, part), words, 2 * dots.lanes)

    def _pair_place(self, row: int, column: int, part: int) -> int:
        """Where the words of the taps (row, column) and (row + 1, column) lie, of lanes from `part` on."""
        return 2 * ((row // 2 * self.spec.kernel[1] + column) * self.layout.lanes + part)

    def _pair_weight(self, stored: list[Expr]) -> Expr:
        """What stored weights of one row or two stand for, in the words of a lane; 0 for a missing row."""
        words = _words(stored)
        lanes = words.ty.dtype.lanes // 2
        if self.spec.odd:
            words = words * const(2, "int16", 2 * lanes) + const(1, "int16", 2 * lanes)
        if len(stored) == 1:
            lower = const((1 << 16) - 1, "int32", lanes)
            words = tirx.bitwise_and(tirx.reinterpret(f"int32x{lanes}", words), lower)
            words = tirx.reinterpret(f"int16x{2 * lanes}", words)
        return self.em.bind("w", words)

    def _accumulate(self, dots: DotProduct, acc: Buffer, sample: Expr, weight: Expr) -> None:
        """acc + sample·weight, a product for every `dots.lanes` of a vector of channels."""
        for first in range(0, self.layout.lanes, dots.lanes):
            parts = (_part(each, dots, first) for each in (sample, weight))
            total = dots.accumulate(load(acc, const(first), dots.lanes), *parts)
            self.em.store(acc, first, total, dots.lanes)

    def _start(self, dots: DotProduct, accs: list[Buffer], weights: list[Expr]) -> None:
        """Takes off what the offset of the samples adds."""
        em = self.em
        for first in range(0, self.layout.lanes, dots.lanes):
            added = const(0, "int32", dots.lanes)
            for weight in weights:
                part = _part(weight, dots, first)
                added = em.bind("added", dots.accumulate(added, _sign_bits(dots, dots.lanes), part))
            for acc in accs:
                em.store(acc, first, load(acc, const(first), dots.lanes) - added, dots.lanes)

    def _taps(self, accs: list[Buffer]) -> list[tuple[int, list[tuple[Buffer, int]]]]:
        """(column of samples, (sum, column of weights) that read it) of a tile."""
        spec = self.spec
        taps: dict[int, list[tuple[Buffer, int]]] = {}
        for i, acc in enumerate(accs):
            for kx in range(spec.kernel[1]):
                taps.setdefault(i * spec.strides[1] + kx * spec.dilations[1], []).append((acc, kx))
        return sorted(taps.items())

    def _weight(self, stored: Expr) -> Expr:
        """What a vector of stored weights stands for."""
        dtype, lanes = self.dtype, self.layout.lanes
        weight = convert(stored, dtype, lanes)
        if self.spec.odd:
            weight = weight * const(2, dtype, lanes) + const(1, dtype, lanes)
        return self.em.bind("w", weight)

    def _finish(self, place: Place, px: Expr, block: Expr, values: Buffer) -> None:
        """Epilogue of one pixel's vector; channels that do not fill one go one by one."""
        em, lanes = self.em, self.layout.lanes
        full, rest = divmod(self.spec.out_channels, lanes)
        narrow = self.narrow * (1 if rest else self.bound.vectors_together(self.narrow, lanes // self.narrow))

        def emit(channel: Expr, lane: Expr, count: int) -> None:
            value = em.bind("v", load(values, px * lanes + lane, count))
            self.bound.emit(em, value, place, channel, count)

        def vectors(count: int) -> None:
            with em.loop("part", count) as part:
                emit(block * lanes + part * narrow, part * narrow, narrow)

        if full:
            with em.when(block < full) if rest else em.always():
                vectors(lanes // narrow)
        if rest:
            with em.when(block >= full):
                whole = rest // narrow
                if whole:
                    vectors(whole)
                if rest % narrow:
                    with em.loop("lane", rest % narrow) as lane:
                        emit(block * lanes + (lane + whole * narrow), lane + whole * narrow, 1)


def _words(rows: list[Expr]) -> Expr:
    """The bytes of one vector or two, alternating, as int16 [2 · lanes]: those of one are sign- or
    zero-extended to 32 bits.
    """
    lanes = rows[0].ty.dtype.lanes
    if len(rows) == 1:
        return tirx.reinterpret(f"int16x{2 * lanes}", convert(rows[0], "int32", lanes))
    order = [const(lane + part * lanes) for lane in range(lanes) for part in (0, 1)]
    return convert(tirx.Shuffle(rows, order), "int16", 2 * lanes)


def _interleaved(rows: list[Expr], lanes: int) -> Expr:
    """The bytes of four vectors, alternating."""
    order = [const(lane + part * lanes) for lane in range(lanes) for part in range(4)]
    return tirx.Shuffle(rows, order)


def _part(words: Expr, dots: DotProduct, first: int) -> Expr:
    """The operand of one product: the bytes of its lanes from `first` on."""
    every, taken = words.ty.dtype.lanes, dots.lanes * dots.dot
    if taken == every:
        return words
    return tirx.Shuffle([words], [const(dots.dot * first + byte) for byte in range(taken)])


def _sign_bits(dots: DotProduct, lanes: int) -> Expr:
    """What changes a byte by the offset of a product, and the offset itself."""
    bit = -128 if is_signed(dots.sample_dtype) else 128
    return const(bit, dots.sample_dtype, 4 * lanes)


class Depthwise(Family):
    """Has nothing to tune, and is the best wherever it applies."""

    name = "depthwise"

    def applies(self, spec: ConvSpec, isa: Isa) -> str:
        return "one channel a group: vectors of channels" if is_depthwise(spec) else ""

    def choices(self, spec: ConvSpec, isa: Isa, threads: int, core: Core) -> list[tuple[float, Choice]]:
        return [(0.0, Choice(self.name))]

    def build(
        self, spec: ConvSpec, epilogue: Epilogue, isa: Isa, threads: int, choice: Choice, core: Core
    ) -> tuple[Any, Layout]:
        return conv_depthwise(spec, epilogue, isa, threads), depthwise_layout(spec, isa)


FAMILY = Depthwise()
