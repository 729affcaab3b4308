"""A convolution whose only result is max-pooled, a network's stem → one convolution with the pool inside.

The map before the pool is the largest tensor of many networks and then needs no memory. Rules, each with the
reason it needs:

1. The convolution stores one int32 stream, and the pool is its only reader: nothing else needs the map.
2. It is one map and one channel group, without an exact Winograd form: the kernel family that pools is the
   direct one. It takes the maximum of a window in a single expression, so the window is small.
3. Requantizations and thresholds of the pooled map join as stores; other readers get the stream.
"""

from __future__ import annotations

from dataclasses import replace

from aqd_deploy.compiler.plan import Conv, MaxPool, Operation, Plan, Pointwise
from aqd_deploy.kernels.contract.spec import UNROLLED_WINDOW, Pool, StoreStream


def pool_in_convolutions(plan: Plan) -> Plan:
    """`plan` with every pair that the rules allow merged."""
    operations = list(plan.operations)
    for op in plan.operations:
        if isinstance(op, Conv) and (pool := _only_pool(op, plan)) is not None:
            operations = _merged(operations, op, pool, plan)
    return replace(plan, operations=operations)


def _only_pool(op: Conv, plan: Plan) -> MaxPool | None:
    """Rules 1 and 2."""
    spec = op.spec
    if op.epilogue.stores != (StoreStream(),) or spec.levels or spec.group != 1 or spec.winograd:
        return None
    readers = _readers(op.outputs[0], plan.operations)
    if len(readers) != 1 or not isinstance(readers[0], MaxPool) or op.outputs[0] in plan.outputs:
        return None
    pool = readers[0]
    if pool.kernel[0] * pool.kernel[1] > UNROLLED_WINDOW:
        return None
    return pool if all(p < pool.kernel[i % 2] for i, p in enumerate(pool.pads)) else None


def _merged(operations: list[Operation], conv: Conv, pool: MaxPool, plan: Plan) -> list[Operation]:
    """Rule 3. The new convolution takes the place of the old one: it only writes earlier."""
    readers = _readers(pool.output, operations)
    joined = [
        r for r in readers if isinstance(r, Pointwise) and r.input == pool.output and not r.epilogue.steps
    ]
    stream = len(joined) < len(readers) or pool.output in plan.outputs or not readers
    stores = (StoreStream(),) if stream else ()
    epilogue = replace(
        conv.epilogue,
        stores=(*stores, *(store for r in joined for store in r.epilogue.stores)),
        pool=Pool(pool.kernel, pool.strides, pool.pads),
    )
    merged = replace(
        conv,
        epilogue=epilogue,
        operands=(*conv.operands, *(operand for r in joined for operand in r.operands)),
        outputs=(*((pool.output,) if stream else ()), *(name for r in joined for name in r.outputs)),
    )
    gone = {id(op) for op in (pool, *joined)}
    return [merged if op is conv else op for op in operations if id(op) not in gone]


def _readers(name: str, operations: list[Operation]) -> list[Operation]:
    return [op for op in operations if name in op.reads]
