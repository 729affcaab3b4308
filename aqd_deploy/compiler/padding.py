"""Plan → plan: convolutions whose padding has values of its own read a map that was padded before."""

from __future__ import annotations

from dataclasses import replace

from aqd_deploy.compiler.plan import Conv, Operation, Pad, Plan


def pad_apart(plan: Plan) -> Plan:
    """`plan` with a `Pad` before every convolution that has `pad_values`; equal paddings are there once."""
    tensors, operations = dict(plan.tensors), list[Operation]()
    padded: dict[tuple[object, ...], str] = {}
    for op in plan.operations:
        if not isinstance(op, Conv) or op.spec.pad_values is None:
            operations.append(op)
            continue
        spec, values = op.spec, op.spec.pad_values
        top, left, bottom, right = spec.pads
        key = (op.input, spec.pads, values)
        if key not in padded:
            name = padded[key] = f"{op.input}:padded{len(padded)}"
            height, width = spec.height + top + bottom, spec.width + left + right
            tensors[name] = replace(tensors[op.input], height=height, width=width)
            operations.append(Pad(name, op.input, name, spec.pads, values))
        size = tensors[padded[key]]
        spec = replace(spec, height=size.height, width=size.width, pads=(0, 0, 0, 0), pad_values=None)
        operations.append(replace(op, input=padded[key], spec=spec))
    return replace(plan, tensors=tensors, operations=operations)
