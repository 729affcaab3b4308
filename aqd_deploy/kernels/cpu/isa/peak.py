"""What an instruction set's dot product can reach: a function that multiplies and never touches memory.

Its accumulators do not depend on each other; each is its own sample, so nothing can be hoisted out of the
loop. The values mean nothing.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx

from aqd_deploy.kernels.contract.kernel import Peak
from aqd_deploy.kernels.cpu.emit import Emitter, broadcast, load, span, vector
from aqd_deploy.kernels.cpu.isa.dot_product import DotProduct

# Enough independent chains for two products a cycle of five cycles each, few enough for 16 registers.
_ACCUMULATORS = 12


def peak(dots: DotProduct, threads: int, steps: int) -> Peak:
    """How fast `dots` multiplies, by `peak_func`."""
    return Peak(
        dots.name,
        peak_func(dots, threads, steps),
        dots.vector_bytes,
        peak_outputs(dots, threads),
        threads * peak_macs(dots, steps),
    )


def peak_macs(dots: DotProduct, steps: int) -> int:
    """Multiply-accumulates that one thread does in `peak_func`."""
    return _accumulators(dots) * dots.vector_bytes * dots.pixels * steps


def peak_outputs(dots: DotProduct, threads: int) -> int:
    """Size of `out` of `peak_func`."""
    return threads * _accumulators(dots) * dots.sums


def peak_func(dots: DotProduct, threads: int, steps: int) -> Any:
    """A PrimFunc without global symbol: `steps` dot products on each accumulator, in each of `threads` tasks.

    Parameters: weights int8 [vector_bytes]; out, the accumulators' bits, int32 [`peak_outputs`].
    """
    em = Emitter()
    weights = em.parameter("weights", (dots.vector_bytes,), "int8")
    count, lanes = _accumulators(dots), dots.sums
    out = em.parameter("out", (peak_outputs(dots, threads),), "int32")
    dtype, width = dots.peak_sums
    with em.loop("task", threads, "parallel") as task:
        weight = em.bind("weight", dots.weight(weights, tirx.IntImm("int32", 0)))
        acc = em.alloc("acc", dtype, count * width, "local")
        for index in range(count):
            em.store(acc, index * width, broadcast(tirx.IntImm(dtype, index + 1), width), width)
        with em.loop("step", steps):
            for index in range(count):
                value = tirx.BufferLoad(acc, [span(tirx.IntImm("int32", index * width), width)])
                em.store(acc, index * width, dots.peak_step(value, weight), width)
        for index in range(count):
            value = load(acc, tirx.IntImm("int32", index * width), width)
            words = value if dtype == "int32" else tirx.reinterpret(vector("int32", lanes), value)
            em.store(out, task * (count * lanes) + index * lanes, words, lanes)
    return em.finish()


def _accumulators(dots: DotProduct) -> int:
    """Portable vectors take two registers each."""
    return _ACCUMULATORS // dots.width
