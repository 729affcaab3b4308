"""Constants behind quantizers: an initializer, and the nodes that give it its meaning."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto, helper

from aqd_deploy.passes.canonical.draft import Draft, attribute, copy_of, is_standard

_MEANING = ("QuantizeLinear", "Clip", "DequantizeLinear")


@dataclass(frozen=True)
class ConstantChain:
    """The real constant `name`: initializer ── QuantizeLinear ── Clip ── DequantizeLinear, where any node may
    be absent; `array` is the initializer's.
    """

    name: str
    nodes: Sequence[NodeProto]
    array: np.ndarray

    def axis(self, draft: Draft) -> int | None:
        """The axis of the scales, None where there is one scale for all."""
        for node in self.nodes:
            if node.op_type == "Clip":
                continue
            scale = draft.array(node.input[1])
            if scale is None or scale.size > 1:
                axis = int(attribute(node, "axis", 1))
                return axis + self.array.ndim if axis < 0 else axis
        return None

    def mapped(self, draft: Draft, array: np.ndarray, axis: int | None) -> tuple[list[NodeProto], str]:
        """The nodes, and the name of the result, of the same meaning for other numbers of it, with the scales
        along `axis`.
        """
        source = draft.constant(self.nodes[0].input[0] if self.nodes else self.name, array)
        made = []
        for node in self.nodes:
            copy = copy_of(node)
            copy.input[0] = source
            if axis is not None and node.op_type != "Clip":
                others = [each for each in node.attribute if each.name != "axis"]
                del copy.attribute[:]
                copy.attribute.extend([*others, helper.make_attribute("axis", axis)])
            source = copy.output[0] = draft.names.fresh(node.output[0])
            made.append(copy)
        return made, source


def chain_of(draft: Draft, producers: Mapping[str, NodeProto], name: str) -> ConstantChain | None:
    """The constant `name`, None for a tensor that isn't one."""
    nodes: list[NodeProto] = []
    source = name
    while source in producers and is_standard(producers[source], *_MEANING):
        nodes.insert(0, producers[source])
        source = next(iter(producers[source].input), "")
    array = draft.array(source)
    return None if array is None else ConstantChain(name, nodes, array)


def moved_axis(old: Sequence[int], new: Sequence[int], axis: int | None) -> int | None:
    """Where a Reshape from `old` to `new` leaves an axis; ValueError where it takes it apart."""
    if axis is None:
        return None
    for index, size in enumerate(new):
        if size == old[axis] and math.prod(new[:index]) == math.prod(old[:axis]):
            return index
    raise ValueError(f"axis {axis} of {list(old)} is none of {list(new)}")


Layout = Callable[[np.ndarray], np.ndarray]


def layout_of(draft: Draft, node: NodeProto) -> Layout | None:
    """What a node that only moves elements does with an array; None for other nodes, and where its operands
    are computed.
    """
    if is_standard(node, "Transpose"):
        perm = attribute(node, "perm")
        return lambda array: array.transpose(perm)
    if is_standard(node, "Flatten"):
        axis = attribute(node, "axis", 1)
        return lambda array: array.reshape(math.prod(array.shape[:axis]), -1)
    if not is_standard(node, "Reshape", "Squeeze", "Unsqueeze", "Slice", "Gather"):
        return None
    operands = [draft.array(name) if name else None for name in node.input[1:]]
    if any(name and each is None for name, each in zip(node.input[1:], operands, strict=True)):
        return None
    if any(each is not None and each.dtype.kind not in "iu" for each in operands):
        return None
    return _MOVERS[node.op_type](node, operands)


def _reshape(node: NodeProto, operands: Sequence[np.ndarray | None]) -> Layout | None:
    if not operands or operands[0] is None:
        return None
    target = operands[0].ravel().tolist()
    keeps_zeros = attribute(node, "allowzero", 0)

    def apply(array: np.ndarray) -> np.ndarray:
        kept = [array.shape[i] if size == 0 and not keeps_zeros else size for i, size in enumerate(target)]
        return array.reshape(kept)

    return apply


def _axes(node: NodeProto, operands: Sequence[np.ndarray | None]) -> tuple[int, ...] | None:
    if operands and operands[0] is not None:
        return tuple(operands[0].ravel().tolist())
    given = attribute(node, "axes")
    return None if given is None else tuple(given)


def _squeeze(node: NodeProto, operands: Sequence[np.ndarray | None]) -> Layout:
    axes = _axes(node, operands)
    return lambda array: np.squeeze(array, axes)


def _unsqueeze(node: NodeProto, operands: Sequence[np.ndarray | None]) -> Layout | None:
    axes = _axes(node, operands)
    return None if axes is None else lambda array: np.expand_dims(array, axes)


def _slice(node: NodeProto, operands: Sequence[np.ndarray | None]) -> Layout | None:
    starts, ends, axes, steps = (*operands, None, None)[:4]
    if starts is None or ends is None:
        return None
    count = starts.size
    along = range(count) if axes is None else axes.ravel().tolist()
    by = [1] * count if steps is None else steps.ravel().tolist()
    parts = list(zip(along, starts.ravel().tolist(), ends.ravel().tolist(), by, strict=True))
    if min(by, default=1) < 1:
        return None

    def apply(array: np.ndarray) -> np.ndarray:
        where = [slice(None)] * array.ndim
        for axis, start, end, step in parts:
            where[axis] = slice(start, end, step)
        return array[tuple(where)]

    return apply


def _gather(node: NodeProto, operands: Sequence[np.ndarray | None]) -> Layout | None:
    indices = operands[0] if operands else None
    return None if indices is None else lambda array: np.take(array, indices, axis=attribute(node, "axis", 0))


_MOVERS = {
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Slice": _slice,
    "Gather": _gather,
}
