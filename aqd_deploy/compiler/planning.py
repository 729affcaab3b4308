"""Integer ONNX → the plan that is compiled: import, fusion, pools, stacked levels, borders, schedule,
arithmetic."""

from __future__ import annotations

from dataclasses import replace

import onnx

from aqd_deploy.compiler.arithmetic import specialise
from aqd_deploy.compiler.fusion import fuse
from aqd_deploy.compiler.importer import import_graph
from aqd_deploy.compiler.levels import stack_levels
from aqd_deploy.compiler.plan import (
    Operation,
    Plan,
    ToChannelsFirst,
    ToChannelsLast,
    border,
    operation_outputs,
)
from aqd_deploy.compiler.pooling import pool_in_convolutions
from aqd_deploy.compiler.schedule import in_order


def plan_model(int_model: onnx.ModelProto) -> Plan:
    """The plan of integer ONNX (docs/integer-dialect.md); every kernel call of the program is an operation.

    Raises UnsupportedModelError, ShapeError or RangeError for a model outside the dialect.
    """
    plan = add_borders(stack_levels(pool_in_convolutions(fuse(import_graph(int_model)))))
    return specialise(replace(plan, operations=in_order(plan.operations)))


def add_borders(plan: Plan) -> Plan:
    """`plan` with the operations that reorder the network's inputs and outputs, [1, C, H, W] outside.

    Outputs that are maps of one stack are written by one operation.
    """
    tensors = dict(plan.tensors)
    operations: list[Operation] = []
    for name in plan.inputs:
        operations.append(ToChannelsLast(name, border(name), name))
    by_source: dict[str, list[str]] = {}
    for name in plan.outputs:
        source = plan.slices.get(name, (name, 0))[0]
        by_source.setdefault(source, []).append(name)
    for name in [*plan.inputs, *plan.outputs]:
        tensors[border(name)] = tensors[name]
    for op in plan.operations:
        operations.append(op)
        # At once: what was just written is still in a cache, and its memory is free again.
        for source in dict.fromkeys(operation_outputs(op)):
            names = by_source.get(source)
            if names is None:
                continue
            starts = tuple(plan.slices.get(name, (name, 0))[1] for name in names)
            outputs = tuple(border(name) for name in names)
            operations.append(ToChannelsFirst(source, source, starts, outputs))
    return replace(plan, operations=operations, tensors=tensors)
