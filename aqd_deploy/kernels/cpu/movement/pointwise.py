"""Everything around the convolutions: standalone epilogues, pooling, upsampling, concatenation, border
layout of images.

Maps are channels-last [H, W, C] as in `spec.py`; the borders of a program are [1, C, H, W]. All functions
return a PrimFunc without a global symbol, inputs first, then the outputs; outputs must not alias inputs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from tvm import tirx

from aqd_deploy.errors import ShapeError
from aqd_deploy.kernels.contract.spec import UNROLLED_WINDOW, Epilogue
from aqd_deploy.kernels.cpu.emit import Emitter, Expr, const, convert, load
from aqd_deploy.kernels.cpu.epilogue.epilogue import bind_epilogue
from aqd_deploy.targets.isa import Isa

LANES = {"int32": 16, "uint8": 32, "int8": 32}


def for_channels(em: Emitter, channels: int, lanes: int, body: Callable[[Expr, int], None]) -> None:
    """Calls body(first channel, lanes): full vectors in a loop, what is left one channel at a time."""
    full = channels // lanes
    if full:
        with em.loop("cv", full) as block:
            body(em.bind("c", block * lanes), lanes)
    if channels % lanes:
        with em.loop("ct", channels % lanes) as rest:
            body(em.bind("c", rest + full * lanes), 1)


def row_loop(threads: int) -> str:
    """The kind of the loop over rows."""
    return "parallel" if threads > 1 else "serial"


def epilogue_func(
    height: int,
    width: int,
    channels: int,
    epilogue: Epilogue,
    isa: Isa,
    threads: int,
    dtype: str = "int32",
) -> Any:
    """(data `dtype` [H, W, C], parameters and outputs as in `spec.Epilogue`): an epilogue without a
    convolution.

    uint8 and int8 data are cast to int32 first, so an `Epilogue()` with a StoreStream is the dialect's
    `Cast`.
    """
    em = Emitter()
    data = em.parameter("data", (height, width, channels), dtype)
    bound = bind_epilogue(em, epilogue, isa, height, width, channels)
    with em.loop("y", height, row_loop(threads)) as y, em.loop("x", width) as x:

        def body(c: Expr, lanes: int) -> None:
            value = load(data, (y * width + x) * channels + c, lanes)
            if dtype != "int32":
                value = convert(value, "int32", lanes)
            bound.emit(em, em.bind("v", value), bound.at(y, x), c, lanes)

        for_channels(em, channels, 16, body)
    return em.finish()


def max_pool(
    height: int,
    width: int,
    channels: int,
    kernel: tuple[int, int],
    strides: tuple[int, int],
    pads: tuple[int, int, int, int],
    dtype: str,
    threads: int,
) -> Any:
    """(data [H, W, C], out [OH, OW, C]): ONNX MaxPool, dilation 1, floor mode; padding never wins.

    `dtype` is uint8, int8 or int32. Raises ShapeError where a window would lie in the padding alone.
    """
    out_height = (height + pads[0] + pads[2] - kernel[0]) // strides[0] + 1
    out_width = (width + pads[1] + pads[3] - kernel[1]) // strides[1] + 1
    if out_height < 1 or out_width < 1 or any(p >= kernel[i % 2] for i, p in enumerate(pads)):
        raise ShapeError(
            "max-pool has a window without input",
            received=f"{height}x{width}, kernel {kernel}, pads {pads}",
            valid="pads smaller than the kernel and an input at least as large",
        )
    em = Emitter()
    data = em.parameter("data", (height, width, channels), dtype)
    out = em.parameter("out", (out_height, out_width, channels), dtype)
    with em.loop("y", out_height, row_loop(threads)) as y, em.loop("x", out_width) as x:

        def value(ky: Expr | int, kx: Expr | int, c: Expr, lanes: int) -> Expr:
            # A coordinate outside repeats the nearest inside one, which is in the window as well.
            row = _clamp(y * strides[0] + (ky - pads[0]), height)
            column = _clamp(x * strides[1] + (kx - pads[1]), width)
            return load(data, (row * width + column) * channels + c, lanes)

        def body(c: Expr, lanes: int) -> None:
            at = (y * out_width + x) * channels + c
            if kernel[0] * kernel[1] <= UNROLLED_WINDOW:
                window = [value(ky, kx, c, lanes) for ky in range(kernel[0]) for kx in range(kernel[1])]
                em.store(out, at, functools.reduce(tirx.Max, window), lanes)
                return
            em.store(out, at, value(0, 0, c, lanes), lanes)
            with em.loop("ky", kernel[0]) as ky, em.loop("kx", kernel[1]) as kx:
                em.store(out, at, tirx.Max(load(out, at, lanes), value(ky, kx, c, lanes)), lanes)

        for_channels(em, channels, LANES[dtype], body)
    return em.finish()


def _clamp(index: Expr, extent: int) -> Expr:
    return tirx.Max(tirx.Min(index, const(extent - 1)), const(0))


def upsample(
    height: int, width: int, channels: int, factor: tuple[int, int], dtype: str, threads: int
) -> Any:
    """(data [H, W, C], out [H·fy, W·fx, C]): nearest neighbour, asymmetric, floor, whole factors."""
    em = Emitter()
    data = em.parameter("data", (height, width, channels), dtype)
    out = em.parameter("out", (height * factor[0], width * factor[1], channels), dtype)
    out_width = width * factor[1]
    with em.loop("y", height * factor[0], row_loop(threads)) as y, em.loop("x", out_width) as x:

        def body(c: Expr, lanes: int) -> None:
            at = ((y // factor[0]) * width + x // factor[1]) * channels + c
            em.store(out, (y * out_width + x) * channels + c, load(data, at, lanes), lanes)

        for_channels(em, channels, LANES[dtype], body)
    return em.finish()


def concat(height: int, width: int, channels: Sequence[int], dtype: str, threads: int) -> Any:
    """(part [H, W, C_i] …, out [H, W, ΣC_i]): concatenation along the channels."""
    em = Emitter()
    parts = [em.parameter(f"part{i}", (height, width, n), dtype) for i, n in enumerate(channels)]
    total = sum(channels)
    out = em.parameter("out", (height, width, total), dtype)
    with em.loop("y", height, row_loop(threads)) as y, em.loop("x", width) as x:
        pixel = em.bind("pixel", y * width + x)
        first = 0
        for part, count in zip(parts, channels, strict=True):

            def body(c: Expr, lanes: int, part: Any = part, count: int = count, first: int = first) -> None:
                em.store(out, pixel * total + first + c, load(part, pixel * count + c, lanes), lanes)

            for_channels(em, count, LANES[dtype], body)
            first += count
    return em.finish()


def pad(
    height: int,
    width: int,
    channels: int,
    pads: tuple[int, int, int, int],
    values: Sequence[int],
    dtype: str,
) -> Any:
    """(data [H, W, C], out): padding (top, left, bottom, right) with one value a channel, which no
    convolution could take: plain loops.
    """
    top, left, bottom, right = pads
    out_height, out_width = height + top + bottom, width + left + right
    em = Emitter()
    data = em.parameter("data", (height, width, channels), dtype)
    out = em.parameter("out", (out_height, out_width, channels), dtype)
    with em.loop("y", out_height) as y, em.loop("x", out_width) as column:
        for c, value in enumerate(values):
            inside = tirx.all(y >= top, y < top + height, column >= left, column < left + width)
            source = ((y - top) * width + (column - left)) * channels + c
            padded = tirx.if_then_else(inside, load(data, source), const(value, dtype))
            em.store(out, (y * out_width + column) * channels + c, padded)
    return em.finish()


def nchw_to_nhwc(height: int, width: int, channels: int, dtype: str, threads: int) -> Any:
    """(data [1, C, H, W], out [H, W, C])."""
    em = Emitter()
    data = em.parameter("data", (1, channels, height, width), dtype)
    out = em.parameter("out", (height, width, channels), dtype)
    with em.loop("y", height, row_loop(threads)) as y, em.loop("x", width) as x, em.loop("c", channels) as c:
        em.store(out, (y * width + x) * channels + c, load(data, (c * height + y) * width + x))
    return em.finish()
