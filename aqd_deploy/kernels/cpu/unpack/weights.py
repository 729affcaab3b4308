"""Expands a bit stream of weight codes into a kernel's packed layout, once, when a program is loaded.

The stream's order is output channel, row, column, input channel: codes that become neighbours in a packed
tensor are neighbours in the stream. So a vector is gathered as one word of codes a lane, and from then on
everything happens in vectors, whose lanes wrap: what is stored in the end fits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import gcd, prod
from typing import Any

from tvm import tirx

from aqd_deploy.errors import ShapeError
from aqd_deploy.kernels.contract.kernel import Layout
from aqd_deploy.kernels.cpu.emit import Buffer, Emitter, Expr, const, convert, load, vector
from aqd_deploy.kernels.cpu.unpack.code_words import CodeWords
from aqd_deploy.kernels.storage.layout import WeightLayout, blob_size
from aqd_deploy.kernels.winograd.forms import FORMS
from aqd_deploy.kernels.winograd.layout import WinogradLayout

Shape = tuple[int, int, int, int]


def unpack_func(
    weight_shape: Shape,
    bits: int,
    offset: int,
    step: int,
    layout: Layout,
    stored: bool = False,
) -> Any:
    """PrimFunc (blob uint8 [n]) -> packed int8 `layout.shape`: `layout.pack` of weights offset + step·code.

    `weight_shape` is [out, in, kh, kw]; the codes lie in the order [out, kh, kw, in], as `layout.pack_codes`
    writes them. The n = blob_size(count, bits) bytes are read and nothing behind them; where `stored`, they
    lie in the program's data (`Emitter.stored`). Raises ShapeError for a layout that it does not know.
    """
    em = Emitter()
    blob = (em.stored if stored else em.parameter)("blob", (blob_size(prod(weight_shape), bits),), "uint8")
    packed = em.parameter("packed", layout.shape, "int8")
    weights = _Weights(em, blob, packed, weight_shape, bits, offset, step)
    match layout:
        case WeightLayout(codes=1):
            _unpack_direct(weights, layout)
        case WeightLayout():
            _unpack_shared(weights, layout)
        case WinogradLayout():
            _unpack_winograd(weights, layout)
        case _:
            raise ShapeError(
                "no kernel expands weights into this layout",
                received=type(layout).__name__,
                valid=f"{WeightLayout.__name__}, {WinogradLayout.__name__}",
            )
    return em.finish()


@dataclass(frozen=True)
class _Weights:
    """Weights offset + step·code: codes of `bits` in `blob`, in the order of `shape`, and where they go."""

    em: Emitter
    blob: Buffer
    packed: Buffer
    shape: Shape
    bits: int
    offset: int
    step: int

    def words(self, layout: WeightLayout | WinogradLayout, field: int, multiple: int) -> CodeWords:
        """Words of the layout's lanes; `multiple` divides where they begin."""
        return CodeWords(
            self.em,
            self.blob,
            prod(self.shape),
            self.bits,
            lanes=layout.lanes,
            dot=layout.dot,
            field=field,
            multiple=multiple,
        )

    def store(self, at: Expr, value: Expr, count: int) -> None:
        """Store a vector as `count` bytes."""
        self.em.store(self.packed, at, tirx.reinterpret(vector("int8", count), value), count)


@dataclass(frozen=True)
class _Named:
    """A vector whose sums and differences have names, so that each is computed once."""

    em: Emitter
    value: Expr

    def __add__(self, other: _Named) -> _Named:
        return _Named(self.em, self.em.bind("sum", self.value + other.value))

    def __sub__(self, other: _Named) -> _Named:
        return _Named(self.em, self.em.bind("difference", self.value - other.value))

    def times(self, factor: int) -> _Named:
        """The product with a factor from 1 on, as sums: few CPUs multiply bytes."""
        if factor <= 1:
            return self
        half = self.times(factor // 2)
        double = half + half
        return double + self if factor % 2 else double


class _Block:
    """The codes of the output channels of one of `blocks` blocks: a lane each, `count` words at a time."""

    def __init__(self, words: CodeWords, shape: Shape, block: Expr, blocks: int, count: int) -> None:
        self.words, self.em, self.block = words, words.em, block
        self.out_channels, self.channel = shape[0], prod(shape[1:])
        self.windows = words.scratch("windows", count)
        self.there: Expr | None = None
        if shape[0] != blocks * words.lanes:
            self.there = self._existing()

    def _existing(self) -> Expr:
        """Words of ones in the lanes that are output channels, of zeros in those that fill a block."""
        words, mask = self.words, self.words.scratch("mask", 1)
        with self.em.loop("lane", words.lanes) as lane:
            exists = self.block * words.lanes + lane < self.out_channels
            self.em.store(mask, lane, tirx.Select(exists, words.ones(words.dot), words.ones(0)))
        return self.em.bind("there", load(mask, const(0), words.lanes))

    def gather(self, starts: list[Expr]) -> None:
        """Put the windows at `starts`, codes from an output channel's first on, into memory."""
        em, lanes = self.em, self.words.lanes
        with em.loop("lane", lanes) as lane:
            o = self.block * lanes + lane
            first = em.bind("first", tirx.Min(o, const(self.out_channels - 1)) * self.channel)
            for at, start in enumerate(starts):
                em.store(self.windows, lane + at * lanes, self.words.window(first + start))

    def codes(self, at: int) -> Expr:
        """The words of the window `at`."""
        return self.words.read(self.windows, at)

    def mask(self, valid: int) -> Expr | None:
        """Words that are zero where a lane is not an output channel, or a field not one of the first `valid`;
        None where there is nothing to leave out.
        """
        if valid == self.words.dot:
            return self.there
        first = self.words.ones(valid, self.words.lanes)
        return first if self.there is None else tirx.bitwise_and(self.there, first)

    def values(self, codes: Expr, offset: int, step: int, mask: Expr | None) -> _Named:
        """offset + step·code in every field; zero where the mask is."""
        em, words = self.em, self.words
        fields = _Named(em, em.bind("fields", words.fields(codes))).times(step)
        constant = const(offset % (1 << words.field), f"uint{words.field}", words.lanes * words.dot)
        value = fields.value + constant
        return _Named(
            em, em.bind("values", value if mask is None else tirx.bitwise_and(value, words.fields(mask)))
        )


def _unpack_direct(weights: _Weights, layout: WeightLayout) -> None:
    em, run = weights.em, layout.segment_length
    _, in_channels, kh, kw = weights.shape
    row = kw * in_channels
    words = weights.words(layout, 8, gcd(layout.dot, run, row))
    # Rows of the layout that are alike: the first, how many, and the weights in a segment.
    whole, rest = divmod(kh, layout.fold)
    parts = [(0, whole, run), *([(whole, 1, rest * row)] if rest else [])]
    with em.loop("block", layout.blocks, "parallel") as index:
        block = _Block(words, weights.shape, index, layout.blocks, 1)
        for first, count, length in parts:
            with em.loop("ky", count) as ky, em.loop("segment", layout.segments) as segment:
                begin = em.bind("begin", (first + ky) * (layout.fold * row) + segment * run)
                to = em.bind(
                    "to", ((index * layout.rows + first + ky) * layout.segments + segment) * layout.steps
                )
                _unpack_segment(weights, layout, block, begin, to, length)


def _unpack_segment(
    weights: _Weights, layout: WeightLayout, block: _Block, begin: Expr, to: Expr, length: int
) -> None:
    """`length` weights of every output channel of a block from code `begin` on, to steps from `to` on."""
    em, vector_bytes = weights.em, layout.lanes * layout.dot
    offset, step = weights.offset, weights.step
    if layout.doubled:
        offset, step = 2 * offset + 1, 2 * step

    def expand(k: Expr, valid: int) -> None:
        block.gather([begin + k * layout.dot])
        value = block.values(block.codes(0), offset, step, block.mask(valid))
        weights.store((to + k) * vector_bytes, value.value, vector_bytes)

    _steps(em, length, layout.dot, expand)
    used = -(-length // layout.dot)
    if used < layout.steps:
        with em.loop("zeros", layout.steps - used) as k:
            zeros = const(0, "int8", vector_bytes)
            em.store(weights.packed, (to + used + k) * vector_bytes, zeros, vector_bytes)


def _unpack_shared(weights: _Weights, layout: WeightLayout) -> None:
    """Codes of the layout's grid, those of neighbouring steps in one byte."""
    em, lanes, dot, run = weights.em, layout.lanes, layout.dot, layout.segment_length
    _, in_channels, kh, kw = weights.shape
    row = kw * in_channels
    words = weights.words(layout, 8, gcd(dot, run, row))
    lowest, stride = layout.grid
    offset, step = (weights.offset - lowest) // stride, weights.step // stride
    bytes_of = layout.steps // layout.codes
    with em.loop("block", layout.blocks, "parallel") as index:
        block = _Block(words, weights.shape, index, layout.blocks, layout.codes)
        with (
            em.loop("ky", kh) as ky,
            em.loop("segment", layout.segments) as segment,
            em.loop("k", bytes_of) as k,
        ):
            begin = em.bind("begin", ky * row + segment * run + k * (layout.codes * dot))
            block.gather([begin + at * dot for at in range(layout.codes)])
            mask = block.mask(dot)
            shared = block.values(block.codes(0), offset, step, mask)
            for at in range(1, layout.codes):
                code = block.values(block.codes(at), offset, step, mask)
                shared = shared + code.times(1 << at * layout.code_bits)
            to = ((index * kh + ky) * layout.segments + segment) * bytes_of + k
            weights.store(to * (lanes * dot), shared.value, lanes * dot)


def _steps(em: Emitter, count: int, dot: int, emit: Callable[[Expr, int], None]) -> None:
    """Call `emit` for whole words of `count` codes, and for the last that is none with its codes."""
    whole, rest = divmod(count, dot)
    if whole:
        with em.loop("k", whole) as k:
            emit(k, dot)
    if rest:
        emit(const(whole), rest)


def _unpack_winograd(weights: _Weights, layout: WinogradLayout) -> None:
    em, in_channels, form = weights.em, weights.shape[1], FORMS[layout.form]
    lanes, dot, positions = layout.lanes, layout.dot, form.positions
    offset, step = _base(weights.offset, weights.step, layout)
    words = weights.words(layout, 16 if form.wide else 8, gcd(dot, in_channels))
    blocks = layout.items * layout.blocks
    with em.loop("index", blocks, "parallel") as index:
        item, b = em.bind("item", index // layout.blocks), em.bind("b", index % layout.blocks)
        block = _Block(words, weights.shape, index, blocks, 9)
        sums = em.alloc("sums", "int32", 9 * lanes)
        em.store(sums, 0, const(0, "int32", 9 * lanes), 9 * lanes)

        def expand(k: Expr, valid: int) -> None:
            block.gather([k * dot + tap * in_channels for tap in range(9)])
            mask, taps = block.mask(valid), []
            for tap in range(9):
                codes = block.codes(tap)
                taps.append(block.values(codes, offset, step, mask))
                if any(layout.shifts):
                    there = codes if mask is None else tirx.bitwise_and(codes, mask)
                    total = load(sums, const(tap * lanes), lanes) + words.totals(there)
                    em.store(sums, tap * lanes, total, lanes)
            for position, value in enumerate(form.filter_transform(_rows(taps))):
                at = ((item * positions + position) * layout.steps + k) * layout.blocks + b
                weights.store(at * layout.vector_bytes, value.value, layout.vector_bytes)

        _steps(em, in_channels, dot, expand)
        count = const(in_channels, "int32", lanes)
        if block.there is not None:
            count = em.bind(
                "count",
                tirx.bitwise_and(convert(block.there, "int32", lanes), const(1, "int32", lanes)) * count,
            )
        totals = []
        for tap in range(9):
            codes = load(sums, const(tap * lanes), lanes)
            total = codes * const(step, "int32", lanes) + count * const(offset, "int32", lanes)
            totals.append(_Named(em, em.bind("total", total)))
        for position, value in enumerate(form.filter_transform(_rows(totals))):
            start = value.value * const(-layout.shifts[position], "int32", lanes)
            at = layout.start_offset + ((item * positions + position) * layout.blocks + b) * lanes * 4
            weights.store(at, start, lanes * 4)


def _rows(taps: list[_Named]) -> list[list[_Named]]:
    return [taps[0:3], taps[3:6], taps[6:9]]


def _base(offset: int, step: int, layout: WinogradLayout) -> tuple[int, int]:
    """Offset and step of the value that is transformed: 2w + 1 where odd, q of w = 2q + 1 where halved."""
    halved = FORMS[layout.form].halved
    if layout.odd and not halved:
        return 2 * offset + 1, 2 * step
    if halved and not layout.odd:
        # All weights are odd; where they are all the same, every code is zero.
        return (offset - 1) // 2, step // 2
    return offset, step
