"""How fast a CPU reads: a function that does little else than load a buffer, once or many times over."""

from __future__ import annotations

from typing import Any

from aqd_deploy.kernels.contract.caches import Core
from aqd_deploy.kernels.contract.kernel import Stream
from aqd_deploy.kernels.cpu.emit import Emitter, broadcast, const, load

# 64 bytes, a cache line, which a target's vectors split; four sums that do not wait for each other fill the
# registers of AVX2 by half.
_LANES, _SUMS = 16, 4
STEP_BYTES = 4 * _LANES * _SUMS


# What is read to measure memory: several times the last level, which keeps a part of a buffer, but no more
# than a board has to spare.
_LAST_LEVELS, _LEAST, _MOST = 4, 64 << 20, 256 << 20


def streams(core: Core, threads: int) -> list[Stream]:
    """Reads of memory, by all threads together, and of half of each core's second level, often enough to take
    a while.
    """
    last = max(core.l2 * threads, core.l3)
    memory = min(max(_LAST_LEVELS * last, _LEAST), _MOST) // threads
    near = core.l2 // 2
    return [stream("memory", threads, memory, 1), stream("L2", threads, near, -(-memory // near))]


def stream(name: str, threads: int, size: int, sweeps: int) -> Stream:
    """Each of `threads` tasks reads its own `size` bytes, rounded up to whole steps, `sweeps` times."""
    steps = -(-size // STEP_BYTES)
    words = threads * steps * _LANES * _SUMS
    return Stream(
        name,
        stream_func(threads, steps, sweeps),
        words,
        threads * _LANES * _SUMS,
        4 * words * sweeps,
    )


def stream_func(threads: int, steps: int, sweeps: int) -> Any:
    """A PrimFunc without global symbol that sums a buffer, so that no load can be left out.

    Parameters: data int32 [threads · steps · 64]; out int32 [threads · 64]: lane by lane `sweeps` times the
    sums of a thread's part, which must not overflow.
    """
    em = Emitter()
    count = _LANES * _SUMS
    data = em.parameter("data", (threads * steps * count,), "int32")
    out = em.parameter("out", (threads * count,), "int32")
    with em.loop("task", threads, "parallel") as task:
        acc = em.alloc("acc", "int32", count, "local")
        for index in range(_SUMS):
            em.store(acc, index * _LANES, broadcast(const(0), _LANES), _LANES)
        with em.loop("sweep", sweeps), em.loop("step", steps) as step:
            first = em.bind("first", (task * steps + step) * count)
            for index in range(_SUMS):
                sums = load(acc, const(index * _LANES), _LANES)
                em.store(acc, index * _LANES, sums + load(data, first + index * _LANES, _LANES), _LANES)
        for index in range(_SUMS):
            sums = load(acc, const(index * _LANES), _LANES)
            em.store(out, task * count + index * _LANES, sums, _LANES)
    return em.finish()
