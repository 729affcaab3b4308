"""Which operations of a plan are executed, and in which order."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Sequence

from aqd_deploy.compiler.plan import Operation


def live(operations: Sequence[Operation], outputs: Collection[str]) -> list[Operation]:
    """The operations whose results reach one of `outputs`."""
    producer = {name: operation for operation in operations for name in operation.writes}
    found: set[int] = set()
    pending = list(outputs)
    while pending:
        operation = producer.get(pending.pop())
        if operation is not None and id(operation) not in found:
            found.add(id(operation))
            pending.extend(operation.reads)
    return [operation for operation in operations if id(operation) in found]


def in_order(operations: Sequence[Operation]) -> list[Operation]:
    """Execution order: by data dependency, among ready operations the earliest in the list."""
    return [operations[i] for i in topological([[operation] for operation in operations])]


def topological(units: Sequence[Sequence[Operation]]) -> list[int]:
    """Indices of `units`, groups of operations that run as one, each behind those whose results it reads.

    Among ready units the earliest in the list; units on a cycle, or behind one, are left out.
    """
    producer = {name: i for i, unit in enumerate(units) for op in unit for name in op.writes}
    waiting: list[set[int]] = []
    readers: list[list[int]] = [[] for _ in units]
    for i, unit in enumerate(units):
        waiting.append({producer[n] for op in unit for n in op.reads if n in producer})
        for needed in waiting[i]:
            readers[needed].append(i)
    ready = [i for i, needed in enumerate(waiting) if not needed]
    heapq.heapify(ready)
    order: list[int] = []
    while ready:
        i = heapq.heappop(ready)
        order.append(i)
        for reader in readers[i]:
            waiting[reader].discard(i)
            if not waiting[reader]:
                heapq.heappush(ready, reader)
    return order
