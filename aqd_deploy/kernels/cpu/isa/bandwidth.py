"""What a core can read: functions that add up a buffer that one level of the caches holds, or none.

The sums are kept, so that no load can be left out; the values mean nothing.
"""

from __future__ import annotations

from typing import Any

from aqd_deploy.kernels.contract.caches import KIB, Core
from aqd_deploy.kernels.contract.kernel import Read
from aqd_deploy.kernels.cpu.emit import Emitter, const, load

# A vector of any x86 or ARM CPU is a part of these; the chains of additions are short enough for two loads a
# cycle, and all sums fit 16 registers of 16 bytes or more.
_LANES, _SUMS = 16, 4
_STEP = _LANES * _SUMS
# Enough for a few milliseconds, and more than the third level of a desktop's CPU holds.
_LEAST, _MOST = 64 * 1024 * KIB, 512 * 1024 * KIB


def reads(core: Core, threads: int) -> list[Read]:
    """Of the second level, half of which a thread's part fills, and of memory: of four times the third level,
    but 64 MiB at least and 512 MiB at most.
    """
    near = threads * (core.l2 // 2)
    far = min(max(4 * core.l3, _LEAST), _MOST)
    return [
        read("L2 cache", threads, near, -(-_LEAST // near)),
        read("memory", threads, far, 1),
    ]


def read(name: str, threads: int, size: int, repeats: int) -> Read:
    """`threads` tasks, each of which reads its part of about `size` bytes `repeats` times."""
    steps = max(size // (4 * _STEP * threads), 1)
    values = threads * steps * _STEP
    return Read(
        name, _read_func(threads, steps, repeats), values, threads * _STEP, bytes=4 * values * repeats
    )


def _read_func(threads: int, steps: int, repeats: int) -> Any:
    """A PrimFunc without global symbol. Parameters: data int32 [threads · steps · 64]; out int32
    [threads · 64], the sums of every 64th value of a task's part, times `repeats`, modulo 2³².
    """
    em = Emitter()
    data = em.parameter("data", (threads * steps * _STEP,), "int32")
    out = em.parameter("out", (threads * _STEP,), "int32")
    with em.loop("task", threads, "parallel") as task:
        sums = em.alloc("sums", "int32", _STEP, "local")
        for index in range(_SUMS):
            em.store(sums, index * _LANES, const(0, "int32", _LANES), _LANES)
        with em.loop("repeat", repeats), em.loop("step", steps) as step:
            for index in range(_SUMS):
                value = load(data, (task * steps + step) * _STEP + index * _LANES, _LANES)
                em.store(sums, index * _LANES, load(sums, const(index * _LANES), _LANES) + value, _LANES)
        for index in range(_SUMS):
            value = load(sums, const(index * _LANES), _LANES)
            em.store(out, task * _STEP + index * _LANES, value, _LANES)
    return em.finish()
