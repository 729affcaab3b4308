"""Weighted sums of neighbouring pixels: sums of windows, linear upsampling. Codes in, int32 out."""

from __future__ import annotations

from typing import Any

from tvm import tirx

from aqd_deploy.kernels.cpu.emit import Emitter, Expr, broadcast, const, convert, load
from aqd_deploy.kernels.cpu.movement.pointwise import for_channels, row_loop

LANES = 16


def sum_pool(
    height: int,
    width: int,
    channels: int,
    kernel: tuple[int, int],
    strides: tuple[int, int],
    pads: tuple[int, int, int, int],
    pad_value: int,
    dtype: str,
    threads: int,
) -> Any:
    """(data [H, W, C], out int32 [OH, OW, C]): sums of windows; what is padded is `pad_value`."""
    out_height = (height + pads[0] + pads[2] - kernel[0]) // strides[0] + 1
    out_width = (width + pads[1] + pads[3] - kernel[1]) // strides[1] + 1
    em = Emitter()
    data = em.parameter("data", (height, width, channels), dtype)
    out = em.parameter("out", (out_height, out_width, channels), "int32")

    def ends(place: Expr, axis: int, size: int) -> tuple[Expr, Expr]:
        """The first row or column of a window inside the map, and how many are."""
        begin = place * strides[axis] - pads[axis]
        first = em.bind("first", tirx.Max(begin, const(0)))
        last = tirx.Min(begin + kernel[axis], const(size))
        return first, em.bind("count", tirx.Max(last - first, const(0)))

    with em.loop("y", out_height, row_loop(threads)) as y, em.loop("x", out_width) as x:
        (top, rows), (left, columns) = ends(y, 0, height), ends(x, 1, width)
        missing = (const(kernel[0] * kernel[1]) - rows * columns) * pad_value

        def body(c: Expr, lanes: int) -> None:
            total = em.alloc("total", "int32", lanes, "local")
            em.store(total, 0, broadcast(missing, lanes), lanes)
            with em.loop("ky", rows) as ky, em.loop("kx", columns) as kx:
                at = ((top + ky) * width + left + kx) * channels + c
                value = convert(load(data, at, lanes), "int32", lanes)
                em.store(total, 0, load(total, const(0), lanes) + value, lanes)
            em.store(out, (y * out_width + x) * channels + c, load(total, const(0), lanes), lanes)

        for_channels(em, channels, LANES, body)
    return em.finish()


def resize_linear(
    height: int,
    width: int,
    channels: int,
    factors: tuple[int, int],
    half_pixel: int,
    dtype: str,
    threads: int,
) -> Any:
    """(data [H, W, C], out int32 [H·fy, W·fx, C]): the dialect's ResizeLinear."""
    em = Emitter()
    data = em.parameter("data", (height, width, channels), dtype)
    out_width = width * factors[1]
    out = em.parameter("out", (height * factors[0], out_width, channels), "int32")

    def taps(place: Expr, factor: int, size: int) -> tuple[tuple[Expr, Expr], tuple[Expr, Expr]]:
        """The neighbours of a row or column of the result, each with its weight."""
        total = 2 * factor
        # One whole place further, so that the division is of numbers from 0.
        t = em.bind("t", place * 2 + (half_pixel * (1 - factor) + total))
        after = em.bind("after", tirx.truncdiv(t, const(total)))
        weight = em.bind("weight", t - after * total)
        before = em.bind("before", tirx.Max(after - 1, const(0)))
        after = em.bind("inside", tirx.Min(after, const(size - 1)))
        return (before, const(total) - weight), (after, weight)

    with em.loop("y", height * factors[0], row_loop(threads)) as y:
        rows = taps(y, factors[0], height)
        with em.loop("x", out_width) as x:
            columns = taps(x, factors[1], width)

            def body(c: Expr, lanes: int) -> None:
                total: Any = None
                for row, row_weight in rows:
                    for column, weight in columns:
                        value = load(data, (row * width + column) * channels + c, lanes)
                        part = convert(value, "int32", lanes) * broadcast(row_weight * weight, lanes)
                        total = part if total is None else total + part
                em.store(out, (y * out_width + x) * channels + c, total, lanes)

            for_channels(em, channels, LANES, body)
    return em.finish()
