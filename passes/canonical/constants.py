"""Constants that nodes compute of constants."""

from __future__ import annotations

import math

import numpy as np
from onnx import NodeProto, TensorProto, helper
from onnx.reference import ReferenceEvaluator

from aqd_deploy.integer.types import MAX_ELEMENTS
from aqd_deploy.passes.canonical.draft import Draft, attribute, is_standard

FOLDED = {
    *("Abs", "Add", "Cast", "Ceil", "Concat", "ConstantOfShape", "Div", "Equal", "Exp", "Expand", "Flatten"),
    *("Floor", "Gather", "Log", "Max", "Min", "Mul", "Neg", "Pow", "Range", "Reciprocal", "ReduceMax"),
    *("ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "Reshape", "Round", "Shape", "Slice", "Split"),
    *("Sqrt", "Squeeze", "Sub", "Tile", "Transpose", "Unsqueeze", "Where", "Constant"),
}
"""Not among them: QuantizeLinear, DequantizeLinear and Clip of codes, which say what a constant means."""


def fold_constants(draft: Draft) -> None:
    """What constants alone decide, computed in the file's own types.

        a ── Div ── scale                 scale = a / b
        b ───┘                            sizes = [1, 8, 4, 4]
        x ── Shape ── Concat ── sizes

    1. A node of constants becomes initializers of its outputs' names.
    2. `Shape` of a tensor of static shape.
    3. `Constant` becomes an initializer.
    """
    count = 0
    shapes, types = draft.shapes, draft.types

    def rule(node: NodeProto) -> list[NodeProto] | None:
        nonlocal count
        if not is_standard(node, *FOLDED):
            return None
        values = _computed(draft, node, shapes, types)
        if values is None:
            return None
        for name, value in zip(node.output, values, strict=False):
            if name:
                draft.set_constant(name, value)
        count += node.op_type != "Constant"
        return []

    draft.rewrite(rule)
    if count:
        draft.changed.append(f"{count} nodes of constants computed")


def _computed(
    draft: Draft, node: NodeProto, shapes: dict[str, tuple[int, ...]], types: dict[str, int]
) -> list[np.ndarray] | None:
    """The values of the outputs, None where the node stays. An output of the graph is not folded: outputs are
    computed.
    """
    if any(name in draft.outputs for name in node.output):
        return None
    if node.op_type == "Shape":
        return _shape_of(node, shapes)
    arrays = {name: draft.array(name) for name in node.input if name}
    if any(array is None for array in arrays.values()):
        return None
    if any(math.prod(shapes.get(name, (MAX_ELEMENTS + 1,))) > MAX_ELEMENTS >> 4 for name in node.output):
        return None
    return _evaluated(node, arrays, types, draft.opset)


def _shape_of(node: NodeProto, shapes: dict[str, tuple[int, ...]]) -> list[np.ndarray] | None:
    shape = shapes.get(node.input[0])
    if shape is None:
        return None
    part = shape[attribute(node, "start", 0) : attribute(node, "end")]
    return [np.array(part, dtype=np.int64)]


def _evaluated(
    node: NodeProto, arrays: dict[str, np.ndarray | None], types: dict[str, int], opset: int
) -> list[np.ndarray] | None:
    """By onnx's reference; None where that has no answer, and the pass that reads the node says why."""
    inputs = [helper.make_tensor_value_info(name, types[name], None) for name in arrays]
    outputs = [
        helper.make_tensor_value_info(name, types.get(name, TensorProto.UNDEFINED), None)
        for name in filter(None, node.output)
    ]
    graph = helper.make_graph([node], "constants", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    try:
        with np.errstate(all="ignore"):
            return [np.asarray(value) for value in ReferenceEvaluator(model).run(None, arrays)]
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        NotImplementedError,
        RuntimeError,
        TypeError,
        ValueError,
    ):
        return None
