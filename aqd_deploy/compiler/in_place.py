"""Plan → plan: skip-adds that write their sum where they read the other operand.

A residual stream is the largest tensor of its time; written in place it passes the caches once instead of
twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from aqd_deploy.compiler.plan import (
    Conv,
    Operation,
    Plan,
    Stack,
    Unstack,
    operation_inputs,
    operation_outputs,
)
from aqd_deploy.kernels.contract.spec import SkipAdd, StoreInPlace, StoreStream


def add_in_place(plan: Plan, writes_once: Callable[[Conv], bool]) -> Plan:
    """`plan`, whose operations are in order, with a `StoreInPlace` wherever a convolution is the last to read
    the only stream that it adds, and `writes_once` says that its kernel computes no value twice.
    """
    last_reader = {name: op for op in plan.operations for name in operation_inputs(op)}
    written = {name for op in plan.operations for name in operation_outputs(op)}
    copies = [op for op in plan.operations if isinstance(op, Stack | Unstack)]
    # These may already lie inside one another (`memory`).
    stacked = {name for op in copies for name in (*operation_inputs(op), *operation_outputs(op))}

    def in_place(op: Operation) -> Operation:
        if not isinstance(op, Conv) or op.epilogue.pool is not None:
            return op
        stores = list(op.epilogue.stores)
        added = [operand for operand in op.operands if isinstance(operand, str)]
        whole = all(step.upsample == 1 for step in op.epilogue.steps if isinstance(step, SkipAdd))
        if StoreStream() not in stores or len(added) != 1 or not whole:
            return op
        stream = stores.index(StoreStream())
        free = added[0] in written and last_reader[added[0]] is op and added[0] != op.input
        if not free or stacked & {added[0], op.outputs[stream]} or not writes_once(op):
            return op
        stores[stream] = StoreInPlace()
        return replace(op, epilogue=replace(op.epilogue, stores=tuple(stores)))

    return replace(plan, operations=[in_place(op) for op in plan.operations])
