"""Integer ONNX → the plan that is compiled: import, fusion, pools, stacked levels, borders, schedule,
arithmetic."""

from __future__ import annotations

from dataclasses import replace

import onnx

from aqd_deploy.compiler.arithmetic import specialise
from aqd_deploy.compiler.fusion import fuse
from aqd_deploy.compiler.levels import stack_levels
from aqd_deploy.compiler.padding import pad_inputs
from aqd_deploy.compiler.patches import image_patches
from aqd_deploy.compiler.plan import (
    Operation,
    Plan,
    ToChannelsFirst,
    ToChannelsLast,
    border,
)
from aqd_deploy.compiler.pooling import pool_in_convolutions
from aqd_deploy.compiler.schedule import in_order
from aqd_deploy.integer.graph import Graph
from aqd_deploy.integer.reader import read_graph


def plan_model(int_model: onnx.ModelProto) -> Plan:
    """The plan of integer ONNX (docs/integer-dialect.md); every kernel call of the program is an operation.

    Raises UnsupportedModelError, ShapeError, RangeError or ModelFileError for a model outside the dialect.
    """
    graph = read_graph(int_model)
    return specialise(_finished(pool_in_convolutions(fuse(graph)), graph))


def plan_for_card(int_model: onnx.ModelProto) -> Plan:
    """The plan of integer ONNX for a card: pools and paddings of images are operations of their own,
    arithmetic is as the dialect has it, and images come as patches. Raises as `plan_model`.
    """
    graph = read_graph(int_model)
    return image_patches(_finished(pad_inputs(fuse(graph)), graph))


def _finished(plan: Plan, graph: Graph) -> Plan:
    plan = add_borders(stack_levels(plan), graph)
    return replace(plan, operations=in_order(plan.operations))


def add_borders(plan: Plan, graph: Graph) -> Plan:
    """`plan` with the operations that reorder the inputs and outputs of `graph`, [1, C, H, W] outside.

    Outputs that are maps of one stack, or names of one tensor, are written by one operation.
    """
    outputs = {name: graph.tensor(name) for name in graph.outputs}
    tensors = dict(plan.tensors)
    tensors.update((name, tensors[tensor]) for name, tensor in outputs.items())
    operations: list[Operation] = []
    for name in plan.inputs:
        operations.append(ToChannelsLast(name, border(name), name))
    by_source: dict[str, list[str]] = {}
    for name, tensor in outputs.items():
        by_source.setdefault(plan.slices.get(tensor, (tensor, 0))[0], []).append(name)
    for name in [*plan.inputs, *outputs]:
        tensors[border(name)] = tensors[name]
    for op in plan.operations:
        operations.append(op)
        # At once: what was just written is still in a cache, and its memory is free again.
        for source in dict.fromkeys(op.writes):
            if names := by_source.get(source):
                starts = tuple(plan.slices.get(outputs[name], ("", 0))[1] for name in names)
                operations.append(ToChannelsFirst(source, source, starts, tuple(map(border, names))))
    return replace(plan, outputs=list(outputs), operations=operations, tensors=tensors)
