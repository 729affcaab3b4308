"""Functions that are tables, in vectors: each lane loads its own value."""

from __future__ import annotations

from tvm import tirx

from aqd_deploy.kernels.contract.cells import FIRST, HIGH, LOW, SHIFT
from aqd_deploy.kernels.contract.spec import Steps
from aqd_deploy.kernels.cpu.emit import Buffer, Emitter, Expr, broadcast, const, load

CODES = 256


def looked_up(table: Buffer, value: Expr, lanes: int) -> Expr:
    """table[value & 255] of a table int32 [256]."""
    return _each(table, tirx.bitwise_and(value, const(CODES - 1, "int32", lanes)))


def declare_steps(em: Emitter, stage: Steps) -> list[Buffer]:
    """The parameters of a `Steps`."""
    sizes = (4, stage.cells, stage.steps + stage.most, stage.steps + 1 + stage.most)
    names = ("header", "cells", "thresholds", "codes")
    return [em.parameter(name, (size,), "int32") for name, size in zip(names, sizes, strict=True)]


def stepped(em: Emitter, stage: Steps, params: list[Buffer], value: Expr, lanes: int) -> Expr:
    """The code of each lane, by the cell that it lies in."""
    header, cells, thresholds, codes = params

    def word(index: int) -> Expr:
        return broadcast(em.hold("word", load(header, const(index))), lanes)

    value = em.bind("clipped", tirx.Min(tirx.Max(value, word(LOW)), word(HIGH)))
    cell = tirx.shift_right(value, word(SHIFT)) - word(FIRST)
    start = em.bind("start", _each(cells, em.bind("cell", cell)))
    reached = start
    for k in range(stage.most):
        threshold = _each(thresholds, em.bind("at", start + const(k, "int32", lanes)))
        further = tirx.Select(value >= threshold, const(1, "int32", lanes), const(0, "int32", lanes))
        reached = em.bind("reached", reached + further)
    return _each(codes, reached)


def _each(buffer: Buffer, index: Expr) -> Expr:
    return tirx.BufferLoad(buffer, [index])
