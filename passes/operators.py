"""The operators of a QDQ file that the passes know, in one table: every attribute, every element type, and
the operation that is read from them.

ONNX adds attributes and types with every opset. What the table doesn't name is refused, so that nothing is
read as something else: an attribute is one that a pass honours in every value that `accepts` lets through, or
one that can't change a result here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto

from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.integer.types import element_name
from aqd_deploy.passes import operations as ops
from aqd_deploy.passes.foreign_operations import DepthToSpace
from aqd_deploy.passes.functions import FUNCTIONS
from aqd_deploy.passes.geometry import (
    averaging,
    convolution,
    pooling,
    transposed_convolution,
    upsampling,
)
from aqd_deploy.passes.graph import Graph, Node, Operation
from aqd_deploy.passes.selection import gathering, padding, rearranging, slicing

LARGEST = (1 << 31) - 1
"""Strides, pads and the like stay below 2^31: no arithmetic with them can leave 64 bits."""

REAL = frozenset((TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16))
_KINDS = dict(TensorProto.DataType.items())
# 2 bits came with ONNX 1.20.
CODES = frozenset(
    _KINDS[name] for name in ("UINT8", "INT8", "UINT4", "INT4", "UINT2", "INT2") if name in _KINDS
)
WIDE_CODES = CODES | {TensorProto.INT16, TensorProto.UINT16, TensorProto.INT32}
"""Codes of constants: 8-bit AQD weights are int16."""

SIZES = frozenset((TensorProto.INT64,))
ANY: frozenset[int] = frozenset()
"""No condition: the pass that reads the input checks it."""


@dataclass(frozen=True)
class Attribute:
    """`accepts` says whether a value is one that the passes honour; `valid` says the same to people."""

    accepts: Callable[[Any], bool]
    valid: str


Reader = Callable[[Graph, Node, Mapping[str, Any]], Operation]


@dataclass(frozen=True)
class Operator:
    """`types`: what each input may hold, the last entry for all further ones; `required` and `most`: how many
    inputs there are. `read` makes the operation of a node and its attributes, None where read_qdq leaves no
    node; of its inputs the first `data` are kept, None for all. `must_be_set` are attributes whose default is
    not a value that the passes honour.
    """

    types: tuple[frozenset[int], ...]
    required: int
    most: int
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    read: Reader | None = None
    data: int | None = None
    must_be_set: tuple[str, ...] = ()


def _plain(kind: type[Operation]) -> Reader:
    return lambda graph, node, attributes: kind()


def _batch_norm(graph: Graph, node: Node, attributes: Mapping[str, Any]) -> Operation:
    return ops.BatchNormalization(Fraction(float(np.float32(attributes.get("epsilon", 1e-5)))))


def _depth_to_space(graph: Graph, node: Node, attributes: Mapping[str, Any]) -> Operation:
    return DepthToSpace(attributes["blocksize"], attributes.get("mode", "DCR"))


def _quantize(graph: Graph, node: Node, attributes: Mapping[str, Any]) -> Operation:
    return ops.QuantizeLinear(attributes.get("axis", 1), attributes.get("output_dtype", 0))


def _dequantize(graph: Graph, node: Node, attributes: Mapping[str, Any]) -> Operation:
    return ops.DequantizeLinear(attributes.get("axis", 1))


def _function(graph: Graph, node: Node, attributes: Mapping[str, Any]) -> Operation:
    """A function of each element, with its parameters as the exact float32 numbers that they are."""
    entry = FUNCTIONS[node.op.name]
    given = {name: attributes.get(name, default) for name, default in entry.attributes.items()}
    parameters = [_SPELLED.get(value, value) for value in given.values()]
    return ops.Function(node.op.name, tuple(Fraction(float(np.float32(value))) for value in parameters))


_SPELLED = {"none": 0.0, "tanh": 1.0}
"""Parameters that are words: the `approximate` of Gelu."""


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _one_of(*values: Any) -> Attribute:
    return Attribute(
        lambda value: type(value) is type(values[0]) and value in values, " or ".join(map(str, values))
    )


def _whole(low: int) -> Attribute:
    return Attribute(
        lambda value: _is_int(value) and low <= value <= LARGEST, f"a whole number from {low} to {LARGEST}"
    )


def _wholes(count: int, low: int) -> Attribute:
    def accepts(value: Any) -> bool:
        return (
            isinstance(value, list)
            and len(value) == count
            and all(_whole(low).accepts(each) for each in value)
        )

    return Attribute(accepts, f"{count} whole numbers from {low} to {LARGEST}")


_ANY_INT = Attribute(_is_int, "a whole number")
_ANY_FLOAT = Attribute(lambda value: isinstance(value, float), "a number")
_FINITE = Attribute(lambda value: isinstance(value, float) and math.isfinite(value), "a finite number")
_AUTO_PAD = _one_of("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER", "")
_AXIS = Attribute(lambda value: _is_int(value) and -4 <= value < 4, "a whole number from -4 to 3")
_CHANNEL_AXIS = _one_of(1, -3)
_UNBLOCKED = Attribute(lambda value: _is_int(value) and value == 0, "0 (one scale a tensor or a channel)")
# The codes are whole numbers, and only float8 saturates differently.
_SATURATE = _one_of(0, 1)

_CEIL = _one_of(0, 1)
_STEPS = Attribute(lambda value: value == [1, 1], "[1, 1] (no dilation)")
_WINDOW = {
    "auto_pad": _AUTO_PAD,
    "dilations": _wholes(2, 1),
    "kernel_shape": _wholes(2, 1),
    "pads": _wholes(4, 0),
    "strides": _wholes(2, 1),
}

_FUNCTIONS = {
    name: Operator(
        (REAL,),
        1,
        1,
        {name: _one_of("none", "tanh") if name == "approximate" else _FINITE for name in entry.attributes},
        _function,
    )
    for name, entry in FUNCTIONS.items()
}

OPERATORS: Mapping[str, Operator] = {
    **_FUNCTIONS,
    "Add": Operator((REAL,), 2, 2, read=_plain(ops.Add)),
    "AveragePool": Operator(
        (REAL,),
        1,
        1,
        {**_WINDOW, "ceil_mode": _CEIL, "count_include_pad": _one_of(0, 1), "dilations": _STEPS},
        averaging,
        must_be_set=("kernel_shape",),
    ),
    "BatchNormalization": Operator(
        (REAL,),
        5,
        5,
        # momentum only has a meaning in training.
        {"epsilon": _FINITE, "momentum": _ANY_FLOAT, "training_mode": _one_of(0)},
        _batch_norm,
    ),
    "Clip": Operator((REAL | WIDE_CODES,), 1, 3, read=_plain(ops.Clip)),
    "Concat": Operator(
        (REAL | CODES,),
        1,
        LARGEST,
        {"axis": _CHANNEL_AXIS},
        _plain(ops.Concat),
        must_be_set=("axis",),
    ),
    "Constant": Operator(
        (),
        0,
        0,
        {
            "value": Attribute(lambda value: isinstance(value, TensorProto), "a tensor"),
            "value_float": _ANY_FLOAT,
            "value_floats": Attribute(lambda value: isinstance(value, list), "numbers"),
            "value_int": _ANY_INT,
            "value_ints": Attribute(lambda value: isinstance(value, list), "whole numbers"),
        },
    ),
    "Conv": Operator(
        (REAL,),
        2,
        3,
        {**_WINDOW, "group": _whole(1)},
        convolution,
    ),
    "ConvTranspose": Operator(
        (REAL,),
        2,
        3,
        {**_WINDOW, "group": _whole(1), "output_padding": _wholes(2, 0), "output_shape": _wholes(2, 1)},
        transposed_convolution,
    ),
    "DepthToSpace": Operator(
        (REAL | CODES,),
        1,
        1,
        {"blocksize": _whole(1), "mode": _one_of("DCR", "CRD")},
        _depth_to_space,
        must_be_set=("blocksize",),
    ),
    "DequantizeLinear": Operator(
        (WIDE_CODES, REAL, WIDE_CODES),
        2,
        3,
        {
            "axis": _AXIS,
            "block_size": _UNBLOCKED,
            # The type of the real value: exact arithmetic has one kind of them.
            "output_dtype": _one_of(0, *sorted(REAL)),
        },
        _dequantize,
    ),
    "Div": Operator((REAL,), 2, 2, read=_plain(ops.Div)),
    "Gather": Operator((REAL | CODES, SIZES), 2, 2, {"axis": _CHANNEL_AXIS}, gathering, 1, ("axis",)),
    "GatherND": Operator((REAL | CODES, SIZES), 2, 2, {"batch_dims": _one_of(0)}, rearranging, 1),
    "GlobalAveragePool": Operator((REAL,), 1, 1, read=averaging),
    "Identity": Operator((ANY,), 1, 1, read=_plain(ops.Identity)),
    "MaxPool": Operator(
        (REAL | CODES,),
        1,
        1,
        {
            **_WINDOW,
            "ceil_mode": _CEIL,
            "dilations": _STEPS,
            # The order of the second output, the indices, which is refused.
            "storage_order": _one_of(0, 1),
        },
        pooling,
        must_be_set=("kernel_shape",),
    ),
    "Mul": Operator((REAL,), 2, 2, read=_plain(ops.Mul)),
    "PRelu": Operator((REAL,), 2, 2, read=_plain(ops.PRelu)),
    "Pad": Operator(
        (REAL | CODES, SIZES, REAL | CODES, ANY),
        2,
        4,
        {"mode": _one_of("constant")},
        padding,
        data=1,
    ),
    "QuantizeLinear": Operator(
        (REAL, REAL, WIDE_CODES),
        2,
        3,
        {
            "axis": _AXIS,
            "block_size": _UNBLOCKED,
            "output_dtype": _one_of(0, *sorted(WIDE_CODES)),
            # x / step in exact arithmetic; a coarser division would be another network.
            "precision": _one_of(0, int(TensorProto.FLOAT)),
            "saturate": _SATURATE,
        },
        _quantize,
    ),
    "Relu": Operator((REAL,), 1, 1, read=_plain(ops.Relu)),
    "Resize": Operator(
        (REAL | CODES, ANY, REAL, SIZES),
        2,
        4,
        {
            "antialias": _one_of(0),
            "axes": Attribute(lambda value: isinstance(value, list), "axes"),
            "coordinate_transformation_mode": _one_of("asymmetric", "half_pixel", "pytorch_half_pixel"),
            # Of cubic and of cropping modes, which `mode` and the line above exclude.
            "cubic_coeff_a": _ANY_FLOAT,
            "exclude_outside": _ANY_INT,
            "extrapolation_value": _ANY_FLOAT,
            "keep_aspect_ratio_policy": _one_of("stretch"),
            "mode": _one_of("nearest", "linear"),
            "nearest_mode": _one_of("floor", "ceil", "round_prefer_floor", "round_prefer_ceil"),
        },
        upsampling,
        data=1,
    ),
    "Slice": Operator((REAL | CODES, ANY), 3, 5, read=slicing, data=1),
    "Sub": Operator((REAL,), 2, 2, read=_plain(ops.Sub)),
}


def label_of(node: NodeProto) -> str:
    """How messages name a node: its name, else its first output, else its operator."""
    return node.name or next((name for name in node.output if name), node.op_type)


def attributes_of(node: NodeProto) -> dict[str, Any]:
    """Attribute values by name, strings decoded; an attribute without a readable value is None."""
    values: dict[str, Any] = {}
    for attribute in node.attribute:
        try:
            value = onnx.helper.get_attribute_value(attribute)
        except ValueError:
            value = None
        values[attribute.name] = value.decode(errors="replace") if isinstance(value, bytes) else value
    return values


def check_node(node: NodeProto) -> None:
    """UnsupportedModelError unless the number of inputs and every attribute is one of the table's."""
    entry = OPERATORS[node.op_type]
    _check_ports(node, entry)
    values = attributes_of(node)
    for name, value in values.items():
        _check_attribute(node, entry, name, value)
    for name in entry.must_be_set:
        if name not in values:
            raise UnsupportedModelError(
                f"node {label_of(node)}: {node.op_type} without {name}, whose default can't be lowered",
                valid=f"{name} = {entry.attributes[name].valid}",
            )


def _check_ports(node: NodeProto, entry: Operator) -> None:
    """Inputs at the end may be left out by an empty name; the first one may not."""
    inputs = list(node.input)
    while inputs and not inputs[-1]:
        inputs.pop()
    if not entry.required <= len(inputs) <= entry.most or not all(inputs[: min(entry.required, 1)]):
        most = "" if entry.most == entry.required else f" to {entry.most}"
        raise UnsupportedModelError(
            f"node {label_of(node)}: {node.op_type} with {len(inputs)} inputs",
            valid=f"{entry.required}{most}",
        )
    if not any(node.output):
        raise UnsupportedModelError(f"node {label_of(node)}: {node.op_type} without an output")


def _check_attribute(node: NodeProto, entry: Operator, name: str, value: Any) -> None:
    known = entry.attributes.get(name)
    if known is None:
        raise UnsupportedModelError(
            f"node {label_of(node)}: {node.op_type} has an attribute {name} that isn't known",
            received=_shown(value),
            valid=", ".join(entry.attributes) or "no attributes",
        )
    if not known.accepts(value):
        raise UnsupportedModelError(
            f"node {label_of(node)}: {node.op_type} with {name} = {_shown(value)} can't be lowered",
            valid=f"{name} = {known.valid}",
        )


def check_types(node: NodeProto, types: Mapping[str, int]) -> None:
    """UnsupportedModelError where an input holds elements that the operator's rule doesn't take."""
    entry = OPERATORS[node.op_type]
    for index, name in enumerate(node.input):
        if not name or not entry.types:
            continue
        allowed = entry.types[min(index, len(entry.types) - 1)]
        kind = types.get(name, TensorProto.UNDEFINED)
        if allowed and kind not in allowed:
            raise UnsupportedModelError(
                f"node {label_of(node)}: {node.op_type} of {name} can't be lowered",
                received=element_name(kind),
                valid=", ".join(element_name(each) for each in sorted(allowed)),
            )


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
