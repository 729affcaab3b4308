"""Movements that select values of a map or put them elsewhere: slices, channels in another order, squares of
channels that become squares of pixels, any order at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aqd_deploy.kernels.cpu.emit import Emitter, Expr, load
from aqd_deploy.kernels.cpu.movement.pointwise import LANES, for_channels, row_loop

Cut = tuple[int, int, int]


def slice_map(
    height: int, width: int, channels: int, cuts: tuple[Cut, Cut, Cut], dtype: str, threads: int
) -> Any:
    """(data [H, W, C], out): of rows, columns and channels the (first, step, count) of `cuts`."""
    (top, down, rows), (left, across, columns), (first, step, count) = cuts
    em = Emitter()
    data = em.parameter("data", (height, width, channels), dtype)
    out = em.parameter("out", (rows, columns, count), dtype)
    with em.loop("y", rows, row_loop(threads)) as y, em.loop("x", columns) as x:
        source = em.bind("source", ((y * down + top) * width + x * across + left) * channels + first)

        def body(c: Expr, lanes: int) -> None:
            em.store(out, (y * columns + x) * count + c, load(data, source + c * step, lanes), lanes)

        for_channels(em, count, LANES[dtype] if step == 1 else 1, body)
    return em.finish()


def gather(height: int, width: int, channels: int, count: int, dtype: str, threads: int) -> Any:
    """(data [H, W, C], indices int32 [count], out [H, W, count]): channels in the order of `indices`."""
    em = Emitter()
    data = em.parameter("data", (height, width, channels), dtype)
    indices = em.parameter("indices", (count,), "int32")
    out = em.parameter("out", (height, width, count), dtype)
    with em.loop("y", height, row_loop(threads)) as y, em.loop("x", width) as x:
        pixel = em.bind("pixel", y * width + x)
        with em.loop("c", count) as c:
            em.store(out, pixel * count + c, load(data, pixel * channels + load(indices, c)))
    return em.finish()


def depth_to_space(
    height: int,
    width: int,
    channels: int,
    blocksize: int,
    first: Sequence[int],
    step: int,
    dtype: str,
    threads: int,
) -> Any:
    """(data [H, W, C], out [H·r, W·r, C/r²]): channel c at place i of a square of r² pixels, row by row, is
    channel first[i] + step·c.
    """
    em, count = Emitter(), channels // len(first)
    data = em.parameter("data", (height, width, channels), dtype)
    out = em.parameter("out", (height * blocksize, width * blocksize, count), dtype)
    with em.loop("y", height, row_loop(threads)) as y, em.loop("x", width) as x:
        pixel = em.bind("pixel", (y * width + x) * channels)
        for place, start in enumerate(first):
            row, column = divmod(place, blocksize)
            to = (y * blocksize + row) * (width * blocksize) + x * blocksize + column

            def body(c: Expr, lanes: int, to: Expr = to, start: int = start) -> None:
                em.store(out, to * count + c, load(data, pixel + start + c * step, lanes), lanes)

            for_channels(em, count, LANES[dtype] if step == 1 else 1, body)
    return em.finish()


def rearrange(shape: tuple[int, int, int], result: tuple[int, int, int], dtype: str, threads: int) -> Any:
    """(data `shape`, indices int32 [elements of out], out `result`), both [H, W, C]: element k of out is
    element indices[k] of data.
    """
    em, row = Emitter(), result[1] * result[2]
    data = em.parameter("data", shape, dtype)
    indices = em.parameter("indices", (result[0] * row,), "int32")
    out = em.parameter("out", result, dtype)
    with em.loop("y", result[0], row_loop(threads)) as y, em.loop("k", row) as k:
        at = em.bind("at", y * row + k)
        em.store(out, at, load(data, load(indices, at)))
    return em.finish()
