"""Plan → plan: network outputs at its borders, and convolutions that write them themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from aqd_deploy.compiler.plan import Conv, Operation, Plan, ToChannelsFirst
from aqd_deploy.kernels.contract.spec import StoreBorder, StoreStream


def store_borders(plan: Plan, can_store: Callable[[Conv], bool]) -> Plan:
    """`plan` without those `ToChannelsFirst` whose convolution may store [1, C, H, W] directly.

    It may where the stream is all that it stores, nothing else reads it, every one of its maps is a network
    output, and `can_store` says that its kernel knows how.
    """
    producers = {op.outputs: op for op in plan.operations if isinstance(op, Conv)}
    readers: dict[str, int] = {}
    for op in plan.operations:
        for name in op.reads:
            readers[name] = readers.get(name, 0) + 1
    direct: dict[int, ToChannelsFirst] = {}
    for op in plan.operations:
        if isinstance(op, ToChannelsFirst) and readers[op.input] == 1:
            conv = producers.get((op.input,))
            if conv is not None and _stores_all(conv, op) and can_store(conv):
                direct[id(conv)] = op
    gone = {id(op) for op in direct.values()}
    operations: list[Operation] = [
        _with_borders(op, direct[id(op)]) if isinstance(op, Conv) and id(op) in direct else op
        for op in plan.operations
        if id(op) not in gone
    ]
    return replace(plan, operations=operations)


def _stores_all(conv: Conv, op: ToChannelsFirst) -> bool:
    only_stream = conv.epilogue.stores == (StoreStream(),) and conv.epilogue.pool is None
    return only_stream and sorted(op.starts) == [m.out_start for m in conv.spec.maps]


def _with_borders(conv: Conv, op: ToChannelsFirst) -> Conv:
    by_start = sorted(zip(op.starts, op.outputs, strict=True))
    epilogue = replace(conv.epilogue, stores=(StoreBorder(),))
    return replace(conv, epilogue=epilogue, outputs=tuple(name for _, name in by_start))
