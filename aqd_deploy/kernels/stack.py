"""Stacks of maps: several feature maps one after the other in one tensor [pixels, 1, C]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import tirx

from aqd_deploy.kernels.emit import Buffer, Emitter, Expr, const, load

LANES = 64


def stack(sizes: Sequence[tuple[int, int]], channels: int, dtype: str) -> Any:
    """(map [H, W, C] …, out [pixels, 1, C]): the maps of `sizes` (H, W) one after the other."""
    em = Emitter()
    maps = [em.parameter(f"map{i}", (h, w, channels), dtype) for i, (h, w) in enumerate(sizes)]
    pixels = sum(h * w for h, w in sizes)
    out = em.parameter("out", (pixels, 1, channels), dtype)
    first = 0
    for source, (height, width) in zip(maps, sizes, strict=True):
        count = height * width * channels
        _copy(em, source, const(0), out, const(first), count)
        first += count
    return em.finish()


def unstack(
    pixels: int, starts: Sequence[int], sizes: Sequence[tuple[int, int]], channels: int, dtype: str
) -> Any:
    """(data [pixels, 1, C], map [H, W, C] …): the maps of `sizes` that begin at pixels `starts`."""
    em = Emitter()
    data = em.parameter("data", (pixels, 1, channels), dtype)
    maps = [em.parameter(f"map{i}", (h, w, channels), dtype) for i, (h, w) in enumerate(sizes)]
    for start, out, (height, width) in zip(starts, maps, sizes, strict=True):
        _copy(em, data, const(start * channels), out, const(0), height * width * channels)
    return em.finish()


def _copy(em: Emitter, source: Buffer, first: Expr, out: Buffer, to: Expr, count: int) -> None:
    """`count` neighbours; the last vector is shifted back so that it ends at the last one."""
    lanes = LANES if count >= LANES else 1
    with em.loop("i", -(-count // lanes)) as i:
        at = em.bind("at", tirx.Min(i * lanes, const(count - lanes)))
        em.store(out, to + at, load(source, first + at, lanes), lanes)


def to_channels_first(
    shape: tuple[int, int, int],
    starts: Sequence[int],
    sizes: Sequence[tuple[int, int]],
    dtype: str,
    threads: int,
) -> Any:
    """(data `shape`, [H, W, C] or a stack [pixels, 1, C]; out [1, C, H, W] …): the maps of `sizes` that begin at pixels `starts`."""
    em = Emitter()
    channels = shape[2]
    data = em.parameter("data", shape, dtype)
    outs = [em.parameter(f"out{i}", (1, channels, h, w), dtype) for i, (h, w) in enumerate(sizes)]
    with em.loop("worker", threads, "parallel" if threads > 1 else "serial") as worker:
        for start, out, (height, width) in zip(starts, outs, sizes, strict=True):
            size = height * width
            tile = min(16, size)
            tiles = -(-size // tile)
            begin = worker * tiles // threads
            with em.loop("turn", (worker + 1) * tiles // threads - begin) as turn:
                # The last tile is shifted back inside: a few pixels are written twice, with the same values.
                first = em.bind("first", tirx.Min((begin + turn) * tile, const(size - tile)))
                with em.loop("c", channels) as c:
                    at = (first + start) * channels + c
                    index = tirx.Ramp(at, const(channels), tile) if tile > 1 else at
                    em.store(out, c * size + first, tirx.BufferLoad(data, [index]), tile)
    return em.finish()
