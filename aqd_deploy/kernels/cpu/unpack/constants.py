"""Expands frames of bit planes and Rice codes into integers, once, when a program is loaded; and asks for the
memory that expanded weights take.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from tvm import tirx

from aqd_deploy.kernels.cpu.emit import Buffer, Emitter, Expr, const, convert, load
from aqd_deploy.kernels.storage.bit_planes import FRAME
from aqd_deploy.kernels.storage.rice_codes import CHUNK

# Each code waits for the one before it: chunks that are read side by side fill the time.
_TOGETHER = 4


def expand_func(frames: int, planes: int, dtype: str, stored: bool = False) -> Any:
    """PrimFunc (bases `dtype` [frames], widths uint8 [frames], planes uint64 [planes]) -> values `dtype`
    [frames · 64]: `bit_planes.decode` for int32 or int64. Where `stored`, the three lie in the program's data
    (`Emitter.stored`).
    """
    unsigned = f"u{dtype}"
    em = Emitter()
    source = em.stored if stored else em.parameter
    bases = source("bases", (frames,), dtype)
    widths = source("widths", (frames,), "uint8")
    bits = source("planes", (planes,), "uint64")
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
                plane = load(bits, load(first, const(0)) + j)
                bit = tirx.bitwise_and(tirx.shift_right(plane, convert(lane, "uint64")), const(1, "uint64"))
                scaled = tirx.shift_left(convert(bit, unsigned), convert(j, unsigned))
                em.store(value, 0, load(value, const(0)) + scaled)
            em.store(values, frame * FRAME + lane, tirx.reinterpret(dtype, load(value, const(0))))
        em.store(first, 0, load(first, const(0)) + width)
    return em.finish()


def expand_rice_func(count: int, words: int, centre: int, shift: int, stored: bool = False) -> Any:
    """PrimFunc (words uint32 [words], starts int32 [⌈count / 4096⌉]) -> codes uint8 [count], as
    `rice_codes.decode`. Where `stored`, both inputs lie in the program's data (`Emitter.stored`).
    """
    em = Emitter()
    chunks = -(-count // CHUNK)
    source = em.stored if stored else em.parameter
    stream = source("words", (words,), "uint32")
    starts = source("starts", (chunks,), "int32")
    codes = em.parameter("codes", (count,), "uint8")
    code = partial(_rice_code, em, stream, centre, shift)
    groups = count // CHUNK // _TOGETHER
    if groups:
        with em.loop("group", groups, "parallel") as group:
            members = [em.bind("chunk", group * _TOGETHER + member) for member in range(_TOGETHER)]
            positions = [_begin(em, starts, chunk) for chunk in members]
            with em.loop("i", CHUNK) as i:
                for chunk, position in zip(members, positions, strict=True):
                    em.store(codes, chunk * CHUNK + i, code(position))
    if chunks > groups * _TOGETHER:
        with em.loop("rest", chunks - groups * _TOGETHER, "parallel") as rest:
            chunk = em.bind("chunk", rest + groups * _TOGETHER)
            position = _begin(em, starts, chunk)
            left = em.bind("left", tirx.Min(const(CHUNK), const(count) - chunk * CHUNK))
            with em.loop("i", left) as i:
                em.store(codes, chunk * CHUNK + i, code(position))
    return em.finish()


def _begin(em: Emitter, starts: Buffer, chunk: Expr) -> Buffer:
    """A register with the bit at which `chunk` begins."""
    position = em.alloc("position", "int32", 1, scope="local")
    em.store(position, 0, load(starts, chunk))
    return position


def _rice_code(em: Emitter, stream: Buffer, centre: int, shift: int, position: Buffer) -> Expr:
    """The code at the bit in `position`, uint8; `position` moves behind it."""
    bit = em.bind("bit", load(position, const(0)))
    word = em.bind("word", bit // 32)
    low, high = (convert(load(stream, word + step), "uint64") for step in (0, 1))
    both = low + tirx.shift_left(high, const(32, "uint64"))
    aligned = tirx.shift_right(both, convert(bit % 32, "uint64"))
    window = em.bind("window", convert(aligned, "uint32"))
    # The lowest zero and the ones below it are the bits that an increment changes.
    changed = tirx.bitwise_xor(window, window + const(1, "uint32"))
    ones = em.bind("ones", convert(tirx.popcount(changed), "int32") - 1)
    rest = convert(tirx.shift_right(window, convert(ones + 1, "uint32")), "int32")
    lower = tirx.bitwise_and(rest, const((1 << shift) - 1))
    folded = em.bind("folded", ones * (1 << shift) + lower)
    sign = const(0) - tirx.bitwise_and(folded, const(1))
    distance = tirx.bitwise_xor(tirx.shift_right(folded, const(1)), sign)
    em.store(position, 0, bit + ones + (1 + shift))
    return em.bind("code", convert(distance + centre, "uint8"))


def huge_pages_func(size: int) -> Any:
    """PrimFunc (memory uint8 [size]): large pages for memory that is new."""
    em = Emitter()
    em.prefer_huge_pages(em.parameter("memory", (size,), "uint8"), size)
    return em.finish()
