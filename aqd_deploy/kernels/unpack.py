"""Expands a bit stream of weight codes into a kernel's packed layout, once, when a program is loaded."""

from __future__ import annotations

from typing import Any

from tvm import tirx

from aqd_deploy.kernels.emit import Emitter, const, convert, load
from aqd_deploy.kernels.layout import WeightLayout, blob_size


def unpack_func(
    weight_shape: tuple[int, int, int, int], bits: int, offset: int, step: int, layout: WeightLayout
) -> Any:
    """PrimFunc (blob uint8 [n]) -> packed int8 `layout.shape`: weight = offset + step·code, zero in padding.

    `weight_shape` is [out, in, kh, kw] and the order of the codes; the stream is that of `layout.pack_codes`.
    A stream of n = blob_size(count, bits) bytes is read and nothing behind it.
    """
    out_channels, in_channels, kh, kw = weight_shape
    size = blob_size(out_channels * in_channels * kh * kw, bits)
    em = Emitter()
    blob = em.parameter("blob", (size,), "uint8")
    packed = em.parameter("packed", layout.shape, "int8")
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
        real = tirx.all(o < out_channels, k < layout.segment_length)
        at = ((((block * kh + ky) * segments + segment) * steps + k_step) * lanes + lane) * dot + j
        code_index = ((o * in_channels + ci) * kh + ky) * kw + kx
        em.store(packed, at, const(0, "int8"))
        with em.when(real):
            code = em.bind("code", _code(em, blob, size, code_index, bits))
            em.store(packed, at, convert(code * step + offset, "int8"))
    return em.finish()


def _code(em: Emitter, blob: Any, size: int, index: Any, bits: int) -> Any:
    """Code `index` of the stream, int32; a code may straddle two bytes when `bits` does not divide 8."""
    first_bit = em.bind("bit", index * bits)
    byte = em.bind("byte", first_bit // 8)
    window = convert(load(blob, byte), "int32")
    if 8 % bits:
        window = window + convert(load(blob, tirx.Min(byte + 1, const(size - 1))), "int32") * 256
    return tirx.bitwise_and(tirx.shift_right(window, first_bit % 8), const((1 << bits) - 1))
