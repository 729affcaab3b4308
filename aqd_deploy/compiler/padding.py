"""Padding with values of its own, for a card: a map padded before, or what it adds to a convolution.

A convolution pads with zeros. Where its values are others, each output pixel whose window leaves the map
lacks Σ value · weight over the taps outside, which depends on its row and column alone (`border_sums`).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from aqd_deploy.compiler.plan import Conv, Operation, Pad, Plan
from aqd_deploy.kernels.contract.launches import Border
from aqd_deploy.kernels.contract.spec import ConvSpec, Map


def pad_inputs(plan: Plan) -> Plan:
    """`plan` with a `Pad` before every convolution with `pad_values` that reads a network input, which
    `patches` then takes in; equal paddings are there once.
    """
    tensors, operations = dict(plan.tensors), list[Operation]()
    padded: dict[tuple[object, ...], str] = {}
    for op in plan.operations:
        if not isinstance(op, Conv) or op.spec.pad_values is None or op.input not in plan.inputs:
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


def border_sums(spec: ConvSpec, weight: np.ndarray) -> Border | None:
    """What `pad_values` add to the convolution with int8 `weight` [O, I/group, kh, kw]; None without any."""
    if spec.pad_values is None:
        return None
    true = weight.astype(np.int64) * 2 + 1 if spec.odd else weight.astype(np.int64)
    values = np.array(spec.pad_values, np.int64).reshape(spec.group, -1)
    each = values.repeat(spec.out_channels // spec.group, axis=0)
    taps = np.einsum("oi,oiyx->oyx", each, true)
    counts = [max(_edges(spec, m, axis)[end] for m in spec.maps) for end in (0, 1) for axis in (0, 1)]
    top, left, bottom, right = counts
    levels = []
    for m in spec.maps:
        rows, columns = _inside(spec, m, 0, (top, bottom)), _inside(spec, m, 1, (left, right))
        lacking = taps.sum((1, 2)) - np.einsum("ay,oyx,bx->abo", rows, taps, columns)
        levels.append(lacking.reshape(-1, spec.out_channels))
    # Sums of int32 wrap around, and so may these: the result is within int32.
    sums = np.concatenate(levels, axis=1).astype(np.int32)
    return Border((top, left, bottom, right), sums)


def _places(spec: ConvSpec, m: Map, axis: int) -> np.ndarray:
    """Rows or columns of the input [outputs, taps] that each output reads."""
    count = (m.out_height, m.out_width)[axis]
    first = np.arange(count) * spec.strides[axis] - spec.pads[axis]
    return first[:, None] + np.arange(spec.kernel[axis]) * spec.dilations[axis]


def _edges(spec: ConvSpec, m: Map, axis: int) -> tuple[int, int]:
    """How many outputs read what lies before the map, and behind it."""
    places = _places(spec, m, axis)
    return int((places < 0).any(1).sum()), int((places >= (m.height, m.width)[axis]).any(1).sum())


def _inside(spec: ConvSpec, m: Map, axis: int, counts: tuple[int, int]) -> np.ndarray:
    """Which taps lie inside, int64 [kinds, taps]: of the first outputs, of all between, of the last ones."""
    places, size = _places(spec, m, axis), (m.height, m.width)[axis]
    inside = ((places >= 0) & (places < size)).astype(np.int64)
    first, last = counts
    kinds = [*range(first), first, *range(len(places) - last, len(places))]
    return inside[np.clip(kinds, 0, len(places) - 1)]
