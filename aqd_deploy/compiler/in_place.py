"""Plan → plan: skip-adds that write their sum where they read the other operand.

A residual stream is the largest tensor of its time; written in place it passes the caches once instead of
twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from aqd_deploy.compiler.plan import Conv, Operation, Plan
from aqd_deploy.kernels.contract.spec import SkipAdd, StoreInPlace, StoreStream


def add_in_place(plan: Plan, writes_once: Callable[[Conv], bool]) -> Plan:
    """`plan`, whose operations are in order, with a `StoreInPlace` wherever a convolution is the last to read
    the only stream that it adds, and `writes_once` says that its kernel computes no value twice.
    """
    last_reader = {name: op for op in plan.operations for name in op.reads}
    written = {name for op in plan.operations for name in op.writes}
    # These may already lie inside one another (`memory`).
    stacked = {
        name for op in plan.operations for part, whole, _ in op.places(plan.tensors) for name in (part, whole)
    }

    def in_place(op: Operation) -> Operation:
        if not isinstance(op, Conv) or op.epilogue.pool is not None:
            return op
        stores = list(op.epilogue.stores)
        whole = any(type(stage) is SkipAdd and stage.upsample == 1 for stage in op.epilogue.stages)
        if StoreStream() not in stores or len(op.added) != 1 or not whole:
            return op
        stream = stores.index(StoreStream())
        (added,) = op.added
        free = added in written and last_reader[added] is op and added != op.input
        if not free or stacked & {added, op.outputs[stream]} or not writes_once(op):
            return op
        stores[stream] = StoreInPlace()
        return replace(op, epilogue=replace(op.epilogue, stores=tuple(stores)))

    return replace(plan, operations=[in_place(op) for op in plan.operations])
