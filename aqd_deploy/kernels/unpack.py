"""Expands a bit stream of weight codes into a kernel's packed layout, once, when a program is loaded."""

from __future__ import annotations

from typing import Any

from tvm import tirx

from aqd_deploy.kernels.emit import Emitter, Expr, const, convert, load
from aqd_deploy.kernels.layout import WeightLayout, blob_size
from aqd_deploy.kernels.winograd_forms import FORMS, WinogradLayout

Shape = tuple[int, int, int, int]


def unpack_func(
    weight_shape: Shape, bits: int, offset: int, step: int, layout: WeightLayout | WinogradLayout
) -> Any:
    """PrimFunc (blob uint8 [n]) -> packed int8 `layout.shape`: `layout.pack` of weights offset + step·code.

    `weight_shape` is [out, in, kh, kw] and the order of the codes; the stream is that of `layout.pack_codes`.
    A stream of n = blob_size(count, bits) bytes is read and nothing behind it.
    """
    em = Emitter()
    stream = _Stream(em, weight_shape, bits, offset, step)
    packed = em.parameter("packed", layout.shape, "int8")
    if isinstance(layout, WinogradLayout):
        _unpack_winograd(em, stream, packed, layout)
    else:
        _unpack_direct(em, stream, packed, layout)
    return em.finish()


class _Stream:
    """The bit stream of a weight tensor, as the next parameter of `em`."""

    def __init__(self, em: Emitter, shape: Shape, bits: int, offset: int, step: int) -> None:
        self.em, self.shape, self.bits, self.offset, self.step = em, shape, bits, offset, step
        self.size = blob_size(shape[0] * shape[1] * shape[2] * shape[3], bits)
        self.blob = em.parameter("blob", (self.size,), "uint8")

    def weight(self, o: Expr, ci: Expr, ky: int | Expr, kx: int | Expr) -> Expr:
        """One weight, int32; its code may straddle two bytes when `bits` does not divide 8."""
        em, (_, in_channels, kh, kw) = self.em, self.shape
        first_bit = em.bind("bit", (((o * in_channels + ci) * kh + ky) * kw + kx) * self.bits)
        byte = em.bind("byte", first_bit // 8)
        window = convert(load(self.blob, byte), "int32")
        if 8 % self.bits:
            following = load(self.blob, tirx.Min(byte + 1, const(self.size - 1)))
            window = window + convert(following, "int32") * 256
        code = tirx.bitwise_and(tirx.shift_right(window, first_bit % 8), const((1 << self.bits) - 1))
        return em.bind("weight", code * self.step + self.offset)


def _unpack_direct(em: Emitter, stream: _Stream, packed: Any, layout: WeightLayout) -> None:
    out_channels, in_channels, kh, _ = stream.shape
    lanes, dot, steps, segments = layout.lanes, layout.dot, layout.steps, layout.segments
    with (
        em.loop("block", layout.blocks, "parallel") as block,
        em.loop("ky", kh) as ky,
        em.loop("segment", segments) as segment,
        em.loop("k_step", steps) as k_step,
        em.loop("lane", lanes) as lane,
        em.loop("j", dot) as j,
    ):
        o = em.bind("o", block * lanes + lane)
        k = em.bind("k", k_step * dot + j)
        kx, ci = (k // in_channels, k % in_channels) if layout.dense else (segment, k)
        at = ((((block * kh + ky) * segments + segment) * steps + k_step) * lanes + lane) * dot + j
        em.store(packed, at, const(0, "int8"))
        with em.when(tirx.all(o < out_channels, k < layout.segment_length)):
            em.store(packed, at, convert(stream.weight(o, ci, ky, kx), "int8"))


def _unpack_winograd(em: Emitter, stream: _Stream, packed: Any, layout: WinogradLayout) -> None:
    out_channels, in_channels = stream.shape[:2]
    form = FORMS[layout.form]
    lanes, dot, blocks, positions = layout.lanes, layout.dot, layout.blocks, form.positions
    with em.loop("block", layout.items * blocks, "parallel") as block:
        item, b = em.bind("item", block // blocks), em.bind("b", block % blocks)
        sums = em.alloc("sums", "int32", lanes * positions)
        with em.loop("s", lanes * positions) as s:
            em.store(sums, s, const(0))
        shifts = em.alloc("shifts", "int32", positions)
        for position, shift in enumerate(layout.shifts):
            em.store(shifts, position, const(-shift))
        # All lanes of a step together: they share cache lines of the packed tensor.
        with em.loop("k", layout.steps) as k, em.loop("lane", lanes) as lane, em.loop("j", dot) as j:
            o, ci = em.bind("o", block * lanes + lane), em.bind("ci", k * dot + j)
            values = em.alloc("values", "int32", positions)
            with em.loop("p", positions) as p:
                em.store(values, p, const(0))
            with em.when(tirx.all(o < out_channels, ci < in_channels)):
                taps = [[_base(stream, layout, o, ci, ky, kx) for kx in range(3)] for ky in range(3)]
                for position, value in enumerate(form.transform_weights(taps)):
                    em.store(values, position, value)
            with em.loop("p", positions) as p:
                value = em.bind("value", load(values, p))
                total = em.bind("total", lane * positions + p)
                em.store(sums, total, load(sums, total) + value)
                at = ((((item * positions + p) * layout.steps + k) * blocks + b) * lanes + lane) * dot + j
                if form.wide:
                    halves = tirx.reinterpret("int8x2", convert(value, "int16"))
                    em.store(packed, at * 2, halves, 2)
                else:
                    em.store(packed, at, convert(value, "int8"))
        with em.loop("p", positions) as p, em.loop("lane", lanes) as lane:
            start = em.bind("start", load(sums, lane * positions + p) * load(shifts, p))
            at = layout.start_offset + (((item * positions + p) * blocks + b) * lanes + lane) * 4
            em.store(packed, at, tirx.reinterpret("int8x4", start), 4)


def _base(stream: _Stream, layout: WinogradLayout, o: Expr, ci: Expr, ky: int, kx: int) -> Expr:
    """The value that is transformed: 2w + 1 where odd, and q of w = 2q + 1 where halved."""
    weight = stream.weight(o, ci, ky, kx)
    halved = FORMS[layout.form].halved
    if layout.odd and not halved:
        weight = weight * 2 + 1
    elif halved and not layout.odd:
        weight = tirx.shift_right(weight - 1, const(1))
    return stream.em.bind("base", weight)
