"""What tiles can reach: a function that multiplies and touches memory only before and after."""

from __future__ import annotations

from aqd_deploy.kernels.contract.kernel import Peak
from aqd_deploy.kernels.cpu.amx.tiles import ROW_BYTES, SUMS, TILE_BYTES, TileUnit
from aqd_deploy.kernels.cpu.emit import Emitter, const

_SUMS = 4


def tile_peak(threads: int, steps: int) -> Peak:
    """Four products of tiles in each of `steps` steps of each thread."""
    em = Emitter()
    weights = em.parameter("weights", (TILE_BYTES,), "int8")
    out = em.parameter("out", (threads * _SUMS * SUMS,), "int32")
    unit = TileUnit(em, signed=False, near=True)
    unit.ask()
    with em.loop("task", threads, "parallel") as task:
        unit.configure()
        for tile in range(_SUMS):
            unit.clear(tile)
            unit.load(_SUMS + tile, weights, const(0), ROW_BYTES)
        with em.loop("step", steps):
            for tile in range(_SUMS):
                unit.multiply(tile, _SUMS + tile // 2, _SUMS + 2 + tile % 2)
        for tile in range(_SUMS):
            unit.store(tile, out, task * (_SUMS * SUMS) + tile * SUMS)
        unit.release()
    macs = threads * steps * _SUMS * SUMS * ROW_BYTES
    return Peak("tdpbusd", em.finish(), TILE_BYTES, threads * _SUMS * SUMS, macs)
