"""Expands frames of bit planes into integers, once, when a program is loaded."""

from __future__ import annotations

from typing import Any

from tvm import tirx

from aqd_deploy.kernels.emit import Emitter, const, convert, load
from aqd_deploy.kernels.frames import FRAME


def expand_func(frames: int, planes: int, dtype: str) -> Any:
    """PrimFunc (bases `dtype` [frames], widths uint8 [frames], planes uint64 [planes]) -> values `dtype`
    [frames · 64]: `frames.decode` for int32 or int64.
    """
    unsigned = f"u{dtype}"
    em = Emitter()
    bases = em.parameter("bases", (frames,), dtype)
    widths = em.parameter("widths", (frames,), "uint8")
    stored = em.parameter("planes", (planes,), "uint64")
    values = em.parameter("values", (frames * FRAME,), dtype)
    first = em.alloc("first", "int32", 1, scope="local")
    em.store(first, 0, const(0))
    with em.loop("frame", frames) as frame:
        width = em.bind("width", convert(load(widths, frame), "int32"))
        base = em.bind("base", tirx.reinterpret(unsigned, load(bases, frame)))
        with em.loop("lane", FRAME) as lane:
            # Unsigned sums wrap, as those of `encode` do.
            value = em.alloc("value", unsigned, 1, scope="local")
            em.store(value, 0, base)
            with em.loop("j", width) as j:
                plane = load(stored, load(first, const(0)) + j)
                bit = tirx.bitwise_and(tirx.shift_right(plane, convert(lane, "uint64")), const(1, "uint64"))
                scaled = tirx.shift_left(convert(bit, unsigned), convert(j, unsigned))
                em.store(value, 0, load(value, const(0)) + scaled)
            em.store(values, frame * FRAME + lane, tirx.reinterpret(dtype, load(value, const(0))))
        em.store(first, 0, load(first, const(0)) + width)
    return em.finish()
