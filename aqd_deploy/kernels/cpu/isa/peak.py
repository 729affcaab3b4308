"""What an instruction set's dot product can reach: a function that multiplies and never touches memory.

Its accumulators do not depend on each other; each is its own sample, so nothing can be hoisted out of the
loop. The values mean nothing.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx

from aqd_deploy.kernels.cpu.emit import Emitter, Expr, broadcast, load, span, vector
from aqd_deploy.kernels.cpu.isa.select import DOTS, MATRIX, NARROW, Dots, Product
from aqd_deploy.targets.isa import Isa

# Enough independent chains for two products a cycle of five cycles each, few enough for 16 registers.
_ACCUMULATORS = 12


def peak_dots(isa: Isa) -> list[Dots]:
    """The dot products of an instruction set: the one for any operands, and others where it has them."""
    return [DOTS[isa], *(table[isa] for table in (NARROW, MATRIX) if isa in table)]


def peak_macs(dots: Dots, steps: int) -> int:
    """Multiply-accumulates that one thread does in `peak_func`."""
    return _accumulators(dots) * dots.vector_bytes * dots.pixels * steps


def peak_outputs(dots: Dots, threads: int) -> int:
    """Size of `out` of `peak_func`."""
    return threads * _accumulators(dots) * dots.sums


def peak_func(dots: Dots, threads: int, steps: int) -> Any:
    """A PrimFunc without global symbol: `steps` dot products on each accumulator, in each of `threads` tasks.

    Parameters: weights int8 [vector_bytes]; out, the accumulators' bits, int32 [`peak_outputs`].
    """
    em = Emitter()
    weights = em.parameter("weights", (dots.vector_bytes,), "int8")
    count, lanes = _accumulators(dots), dots.sums
    out = em.parameter("out", (peak_outputs(dots, threads),), "int32")
    narrow = dots.product in (Product.PMADDUBSW, Product.SMLAL)
    dtype, width = ("int16", 2 * lanes) if narrow else ("int32", lanes)
    with em.loop("task", threads, "parallel") as task:
        weight = em.bind("weight", dots.weight(weights, tirx.IntImm("int32", 0)))
        acc = em.alloc("acc", dtype, count * width, "local")
        for index in range(count):
            em.store(acc, index * width, broadcast(tirx.IntImm(dtype, index + 1), width), width)
        with em.loop("step", steps):
            for index in range(count):
                value = tirx.BufferLoad(acc, [span(tirx.IntImm("int32", index * width), width)])
                em.store(acc, index * width, _product(dots, value, weight), width)
        for index in range(count):
            value = load(acc, tirx.IntImm("int32", index * width), width)
            words = tirx.reinterpret(vector("int32", lanes), value) if narrow else value
            em.store(out, task * (count * lanes) + index * lanes, words, lanes)
    return em.finish()


def _accumulators(dots: Dots) -> int:
    """Portable vectors take two registers each."""
    return _ACCUMULATORS // dots.width


def _product(dots: Dots, acc: Expr, weight: Expr) -> Expr:
    match dots.product:
        case Product.PMADDUBSW:
            return dots.add_partial(acc, tirx.reinterpret(vector("int8", dots.vector_bytes), acc), weight)
        case Product.SMLAL:
            return dots.add_partial(acc, _first_half(acc, dots.vector_bytes), weight)
        case Product.SMMLA:
            return dots.accumulate(acc, _first_half(acc, dots.pixels * dots.dot), weight)
        case Product.PLAIN:
            return dots.accumulate(acc, acc, weight)
        case _:
            return dots.accumulate(acc, dots.from_words(acc), weight)


def _first_half(acc: Expr, count: int) -> Expr:
    """The first `count` of twice as many bytes."""
    samples = tirx.reinterpret(vector("int8", 2 * count), acc)
    return tirx.Shuffle([samples], [tirx.IntImm("int32", index) for index in range(count)])
