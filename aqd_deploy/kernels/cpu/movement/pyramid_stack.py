"""Stacks of maps: several feature maps one after the other in one tensor [pixels, 1, C]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import tirx

from aqd_deploy.kernels.cpu.emit import Buffer, Emitter, Expr, const, load

LANES = 64
# Pixels and channels that are transposed in registers.
SQUARE = 16


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
    """(data `shape`, [H, W, C] or a stack [pixels, 1, C]; out [1, C, H, W] …): the maps of `sizes` that begin
    at pixels `starts`.
    """
    em = Emitter()
    channels = shape[2]
    data = em.parameter("data", shape, dtype)
    outs = [em.parameter(f"out{i}", (1, channels, h, w), dtype) for i, (h, w) in enumerate(sizes)]
    with em.loop("worker", threads, "parallel" if threads > 1 else "serial") as worker:
        for start, out, (height, width) in zip(starts, outs, sizes, strict=True):
            pixels = height * width
            square = min(SQUARE, pixels, channels)
            # Smaller squares would not fill a vector; single values are few then.
            square = SQUARE if square == SQUARE else 1
            tiles = -(-pixels // square)
            begin = worker * tiles // threads
            with (
                em.loop("turn", (worker + 1) * tiles // threads - begin) as turn,
                em.loop("cv", -(-channels // square)) as block,
            ):
                # The last squares are shifted back inside: values written twice are the same.
                p = em.bind("p", tirx.Min((begin + turn) * square, const(pixels - square)))
                c = em.bind("c", tirx.Min(block * square, const(channels - square)))
                rows = [load(data, (p + (start + i)) * channels + c, square) for i in range(square)]
                for i, row in enumerate(transposed(em, [em.bind("row", row) for row in rows])):
                    em.store(out, (c + i) * pixels + p, row, square)
    return em.finish()


def transposed(em: Emitter, rows: list[Expr]) -> list[Expr]:
    """The columns of a square of `rows`, a power of two: at each distance d, the off-diagonal blocks of d·d
    values change places.
    """
    lanes = len(rows)
    rows = list(rows)
    distance = lanes // 2
    while distance:
        for i in (i for i in range(lanes) if not i & distance):
            pair = [rows[i], rows[i + distance]]
            upper = [lane ^ distance | lanes if lane & distance else lane for lane in range(lanes)]
            lower = [lane | lanes if lane & distance else lane ^ distance for lane in range(lanes)]
            for row, order in ((i, upper), (i + distance, lower)):
                rows[row] = em.bind("shuffled", tirx.Shuffle(pair, [const(lane) for lane in order]))
        distance //= 2
    return rows
