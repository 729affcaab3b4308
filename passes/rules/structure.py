"""Operations that select or place elements: the same on integers, each channel keeping what it stands for."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np

from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.integer.ranges import Interval, concatenate
from aqd_deploy.passes.foreign_operations import DepthToSpace, Gather, Lookup, Rearrange, Slice
from aqd_deploy.passes.graph import Node, Operation
from aqd_deploy.passes.integer_operations import PadImage
from aqd_deploy.passes.operations import Concat, Pad, Resize
from aqd_deploy.passes.values import CODE_BOUNDS, Scaled, Values


def resize(values: Values, node: Node, op: Resize) -> None:
    """On the integers."""
    values.place(node, op, values.value(node.inputs[0], node))


def concat(values: Values, node: Node, op: Concat) -> None:
    """Every channel keeps its own form; codes of two kinds become int32."""
    parts = [values.value(name, node) for name in node.inputs]
    tensors = [value.tensor for value in parts]
    if len({values.dtypes[name] for name in tensors}) > 1:
        tensors = [values.int32(name) for name in tensors]
    output = values.graph.fresh(f"{node.output}_int")
    values.graph.shapes[output] = values.graph.shapes[node.output]
    interval = concatenate([values.graph.ranges[name] for name in tensors])
    values.emit(Node(op, tensors, output, node.source), interval, values.dtypes[tensors[0]])
    forms = [form for value in parts for form in value.forms]
    values.scaled[node.output] = Scaled(output, forms, np.concatenate([v.error for v in parts]))


def select(values: Values, node: Node, op: Slice | Gather) -> None:
    """The channels that are left keep their forms."""
    value = values.value(node.inputs[0], node)
    kept = _kept(op, len(value.forms))
    placed = Scaled(value.tensor, [value.forms[i] for i in kept], value.error[kept])
    values.place(node, op, placed, _channels(values.graph.ranges[value.tensor], kept))


def depth_to_space(values: Values, node: Node, op: DepthToSpace) -> None:
    """Each block of channels becomes one, so its channels are brought to one scale."""
    value = values.value(node.inputs[0], node)
    blocks = _blocks(op, len(value.forms))
    if any(len({value.forms[i] for i in block}) > 1 for block in blocks):
        value = values.settle(node.inputs[0], node, blocks.tolist())
    first = [int(block[0]) for block in blocks]
    placed = Scaled(value.tensor, [value.forms[i] for i in first], value.error[blocks].max(axis=1))
    values.place(node, op, placed, _joined(values.graph.ranges[value.tensor], blocks))


def rearrange(values: Values, node: Node, op: Rearrange) -> None:
    """Channels that come together are brought to one scale, and so are those that do by way of others."""
    value = values.value(node.inputs[0], node)
    sources = _sources(values, node, op)
    blocks = _joint(sources, len(value.forms))
    if any(len({value.forms[i] for i in block}) > 1 for block in blocks):
        value = values.settle(node.inputs[0], node, blocks)
    first = [int(each[0]) for each in sources]
    error = np.array([value.error[each].max() for each in sources])
    placed = Scaled(value.tensor, [value.forms[i] for i in first], error)
    values.place(node, op, placed, _united(values.graph.ranges[value.tensor], sources))


def pad(values: Values, node: Node, op: Pad) -> None:
    """Codes, padded with the code of the value."""
    value = values.value(node.inputs[0], node)
    codes = _codes_of(value, op.values)
    low, high = CODE_BOUNDS.get(values.dtypes[value.tensor], (0, -1))
    if any(code is None or code.denominator > 1 or not low <= code <= high for code in codes):
        raise UnsupportedModelError(
            f"node {node.label}: it pads with {float(op.values[0])}, for which its input has no 8-bit code",
            valid="a value that the codes in front of it have, or a QuantizeLinear right behind it",
            next_command="quantize what this node reads",
        )
    place_pad(values, node, op, value, [int(code) for code in codes if code is not None])


def _codes_of(value: Scaled, reals: tuple[Fraction, ...]) -> list[Fraction | None]:
    forms = [form.rationalised() for form in value.forms]
    wanted = reals * (len(forms) // len(reals))
    return [(real - form.b0) / form.a if form.a else None for form, real in zip(forms, wanted, strict=True)]


def place_pad(values: Values, node: Node, op: Pad, value: Scaled, codes: list[int]) -> None:
    """PadImage with these codes."""
    new, name = pad_image(values, node, op, value.tensor, codes)
    tensor = values.graph.fresh(f"{node.output}_int")
    values.graph.shapes[tensor] = values.graph.shapes[node.output]
    interval = padded_range(values, value.tensor, codes)
    values.emit(Node(new, [value.tensor, name], tensor, node.source), interval, values.dtypes[value.tensor])
    values.scaled[node.output] = replace(value, tensor=tensor)


def pad_image(values: Values, node: Node, op: Pad, tensor: str, codes: list[int]) -> tuple[PadImage, str]:
    """The operation and the name of its constant."""
    array = np.array(codes, dtype=values.dtypes[tensor]).reshape(1, -1, 1, 1)
    return PadImage(op.pads), values.constants(node, "padding", array)


def padded_range(values: Values, tensor: str, codes: list[int]) -> Interval:
    """The interval of codes among which there are these."""
    inside = values.graph.ranges[tensor]
    return Interval(np.minimum(inside.lo, codes), np.maximum(inside.hi, codes))


def on_codes(values: Values, node: Node, op: Operation) -> None:
    """A structural operation that stands between codes: the file's, or what quantizers were moved past."""
    source = node.inputs[0]
    interval = values.graph.ranges[source]
    inputs = node.inputs
    if isinstance(op, Concat):
        interval = concatenate([values.graph.ranges[name] for name in node.inputs])
    elif isinstance(op, (Slice, Gather)):
        interval = _channels(interval, _kept(op, len(interval.lo)))
    elif isinstance(op, DepthToSpace):
        interval = _joined(interval, _blocks(op, len(interval.lo)))
    elif isinstance(op, Rearrange):
        interval = _united(interval, _sources(values, node, op))
    elif isinstance(op, Pad):
        codes = [int(code) for code in op.values] * (len(interval.lo) // len(op.values))
        interval = padded_range(values, source, codes)
        op, name = pad_image(values, node, op, source, codes)
        inputs = [source, name]
    values.emit(Node(op, inputs, node.output, node.source), interval, values.dtypes[source])


def lookup(values: Values, node: Node, op: Lookup) -> None:
    """A table of codes: the interval is that of the entries between the lowest and the highest code."""
    inside, table = values.graph.ranges[node.inputs[0]], op.table.astype(np.int64)
    bounds = zip(inside.lo.tolist(), inside.hi.tolist(), strict=True)
    found = [table[np.arange(low, high + 1)] for low, high in bounds]
    interval = Interval(np.array([f.min() for f in found]), np.array([f.max() for f in found]))
    values.emit(node, interval, str(op.table.dtype))


def _kept(op: Slice | Gather, channels: int) -> list[int]:
    """The input channel of each output channel."""
    if isinstance(op, Gather):
        return list(op.channels)
    bounds = dict(zip(op.axes, op.bounds, strict=True))
    return list(range(channels)[slice(*bounds[1])]) if 1 in bounds else list(range(channels))


def _channels(interval: Interval, kept: list[int]) -> Interval:
    return Interval(interval.lo[kept], interval.hi[kept])


def _joined(interval: Interval, blocks: np.ndarray) -> Interval:
    return Interval(interval.lo[blocks].min(axis=1), interval.hi[blocks].max(axis=1))


def _blocks(op: DepthToSpace, channels: int) -> np.ndarray:
    """The input channels of each output channel."""
    size = op.blocksize**2
    index = np.arange(channels)
    return index.reshape(-1, size) if op.mode == "CRD" else index.reshape(size, -1).T


def _sources(values: Values, node: Node, op: Rearrange) -> list[np.ndarray]:
    """The input channels that each output channel has elements of."""
    _, _, height, width = values.graph.shapes[node.inputs[0]]
    return [np.unique(channel // (height * width)) for channel in op.indices]


def _united(interval: Interval, sources: list[np.ndarray]) -> Interval:
    return Interval(
        np.array([interval.lo[each].min() for each in sources]),
        np.array([interval.hi[each].max() for each in sources]),
    )


def _joint(sources: list[np.ndarray], channels: int) -> list[list[int]]:
    """All channels in blocks, such that no output channel has elements of two blocks."""
    block = np.arange(channels)
    for each in sources:
        met = np.isin(block, block[each])
        block[met] = block[each].min()
    return [np.flatnonzero(block == name).tolist() for name in np.unique(block)]
