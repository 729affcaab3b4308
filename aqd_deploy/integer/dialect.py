"""The operations of the `aqd.integer` domain: function bodies in standard ONNX, constants and node builders.

Each operation that ONNX has no integer word for is a model-local function, so onnxruntime's CPU provider
runs an integer file as it is. docs/integer-dialect.md is the specification.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, FunctionProto, NodeProto, TensorProto, helper

DOMAIN = "aqd.integer"
DOMAIN_VERSION = 1
OPSET = 21
IR_VERSION = 10

C_BITS = 31
"""A multiplier is a sign and at most this many bits."""

MAX_SHIFT = 62
"""Largest shift d."""

PRODUCT_LIMIT = 1 << 62
"""|x·c + B| stays below this over the proven range of x."""

INT32_MIN, INT32_MAX = -(1 << 31), (1 << 31) - 1

# One name a configuration: no leading zeros. Larger windows than 9999 are none of a detector's.
_POOL_NAME = re.compile(r"MaxPool_k([1-9][0-9]{0,3})s([1-9][0-9]{0,3})p(0|[1-9][0-9]{0,3})")


def opset_imports() -> list[onnx.OperatorSetIdProto]:
    """The opset imports of an integer file: ONNX 21 and the dialect's domain."""
    return [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, DOMAIN_VERSION)]


def pool_name(kernel: int, stride: int, pad: int) -> str:
    """Name of the s32 max-pool function of a square configuration, for example `MaxPool_k3s2p1`."""
    return f"MaxPool_k{kernel}s{stride}p{pad}"


def parse_pool_name(op_type: str) -> tuple[int, int, int] | None:
    """(kernel, stride, pad) of a `MaxPool_k{K}s{S}p{P}` op type, None for any other name."""
    match = _POOL_NAME.fullmatch(op_type)
    return (int(match[1]), int(match[2]), int(match[3])) if match else None


def _attribute(name: str, reference: str, kind: AttributeProto.AttributeType) -> AttributeProto:
    """An attribute whose value is the calling node's attribute `reference`."""
    proto = AttributeProto()
    proto.name, proto.ref_attr_name, proto.type = name, reference, kind
    return proto


def _constant(output: str, value: np.ndarray) -> NodeProto:
    tensor = onnx.numpy_helper.from_array(np.asarray(value, order="C"))
    return helper.make_node("Constant", [], [output], value=tensor)


def _constant_from(output: str, reference: str, kind: AttributeProto.AttributeType) -> NodeProto:
    """An int64 constant (scalar or vector) that holds the calling node's attribute."""
    node = helper.make_node("Constant", [], [output])
    field = "value_int" if kind == AttributeProto.INT else "value_ints"
    node.attribute.append(_attribute(field, reference, kind))
    return node


def _cast_from(source: str, output: str, reference: str) -> NodeProto:
    node = helper.make_node("Cast", [source], [output])
    node.attribute.append(_attribute("to", reference, AttributeProto.INT))
    return node


def _multiply_shift(x: str, c: str, b: str, d: str, output: str) -> list[NodeProto]:
    """(x·c + B) >> d in int64.

    ONNX's BitShift is unsigned, so the sum is moved up by 2^62, shifted, and moved down by 2^62 >> d, which
    is a whole number for d ≤ 62: the floor is that of the signed shift.
    """

    def at(name: str) -> str:
        return f"{output}_{name}"

    return [
        _constant(at("offset"), np.array(PRODUCT_LIMIT, dtype=np.int64)),
        _constant(at("offset_u"), np.array(PRODUCT_LIMIT, dtype=np.uint64)),
        helper.make_node("Cast", [x], [at("x")], to=TensorProto.INT64),
        helper.make_node("Mul", [at("x"), c], [at("product")]),
        helper.make_node("Add", [at("product"), b], [at("sum")]),
        helper.make_node("Add", [at("sum"), at("offset")], [at("raised")]),
        helper.make_node("Cast", [at("raised")], [at("unsigned")], to=TensorProto.UINT64),
        helper.make_node("BitShift", [at("unsigned"), d], [at("shifted_u")], direction="RIGHT"),
        helper.make_node("Cast", [at("shifted_u")], [at("shifted")], to=TensorProto.INT64),
        helper.make_node("BitShift", [at("offset_u"), d], [at("lowered_u")], direction="RIGHT"),
        helper.make_node("Cast", [at("lowered_u")], [at("lowered")], to=TensorProto.INT64),
        helper.make_node("Sub", [at("shifted"), at("lowered")], [output]),
    ]


def _function(
    name: str, inputs: Sequence[str], nodes: Iterable[NodeProto], attributes: Sequence[str] = ()
) -> FunctionProto:
    return helper.make_function(
        DOMAIN, name, list(inputs), ["y"], list(nodes), [helper.make_opsetid("", OPSET)], list(attributes)
    )


def _function_multiply_shift() -> FunctionProto:
    body = _multiply_shift("x", "c", "B", "d", "wide")
    body.append(helper.make_node("Cast", ["wide"], ["y"], to=TensorProto.INT32))
    return _function("MultiplyShift", ["x", "c", "B", "d"], body)


def _function_requantize() -> FunctionProto:
    """Clips by comparisons: Clip, Min and Max of onnxruntime compare int64 wrongly where bit 31 is set.

    (Eigen's SSE2 code, microsoft/onnxruntime#25280.)
    """
    body = _multiply_shift("x", "c", "B", "d", "wide")
    body += [
        _constant_from("low", "lo", AttributeProto.INT),
        _constant_from("high", "hi", AttributeProto.INT),
        helper.make_node("Less", ["wide", "low"], ["is_below"]),
        helper.make_node("Where", ["is_below", "low", "wide"], ["at_least_low"]),
        helper.make_node("Greater", ["at_least_low", "high"], ["is_above"]),
        helper.make_node("Where", ["is_above", "high", "at_least_low"], ["clipped"]),
        _cast_from("clipped", "y", "to"),
    ]
    return _function("Requantize", ["x", "c", "B", "d"], body, ["lo", "hi", "to"])


def _function_threshold() -> FunctionProto:
    body = [
        helper.make_node("Mul", ["x", "sign"], ["signed"]),
        helper.make_node("GreaterOrEqual", ["signed", "T"], ["reached"]),
        helper.make_node("Cast", ["reached"], ["steps"], to=TensorProto.INT64),
        _constant("axis", np.array([0], dtype=np.int64)),
        helper.make_node("ReduceSum", ["steps", "axis"], ["count"], keepdims=0),
        _constant_from("low", "lo", AttributeProto.INT),
        helper.make_node("Add", ["count", "low"], ["level"]),
        _cast_from("level", "y", "to"),
    ]
    return _function("Threshold", ["x", "sign", "T"], body, ["lo", "to"])


def _function_skip_add() -> FunctionProto:
    body = _multiply_shift("a", "ca", "Ba", "da", "left") + _multiply_shift("b", "cb", "Bb", "db", "right")
    body += [
        helper.make_node("Add", ["left", "right"], ["sum"]),
        helper.make_node("Cast", ["sum"], ["y"], to=TensorProto.INT32),
    ]
    return _function("SkipAdd", ["a", "b", "ca", "Ba", "da", "cb", "Bb", "db"], body)


def _function_conv_odd() -> FunctionProto:
    kinds = {
        "strides": AttributeProto.INTS,
        "pads": AttributeProto.INTS,
        "dilations": AttributeProto.INTS,
        "group": AttributeProto.INT,
    }

    def convolve(weights: str, output: str) -> NodeProto:
        node = helper.make_node("ConvInteger", ["x", weights], [output])
        node.attribute.extend(_attribute(name, name, kind) for name, kind in kinds.items())
        return node

    body = [
        convolve("w", "half"),
        convolve("ones", "window"),
        helper.make_node("Add", ["half", "half"], ["double"]),
        helper.make_node("Add", ["double", "window"], ["y"]),
    ]
    return _function("ConvOdd", ["x", "w", "ones"], body, list(kinds))


def _function_pad_image() -> FunctionProto:
    body = [
        _constant_from("amount", "pads", AttributeProto.INTS),
        helper.make_node("Cast", ["x"], ["wide"], to=TensorProto.INT32),
        helper.make_node("Cast", ["values"], ["wide_values"], to=TensorProto.INT32),
        helper.make_node("Sub", ["wide", "wide_values"], ["centred"]),
        helper.make_node("Pad", ["centred", "amount"], ["padded"]),
        helper.make_node("Add", ["padded", "wide_values"], ["restored"]),
        helper.make_node("Cast", ["restored"], ["y"], to=TensorProto.UINT8),
    ]
    return _function("PadImage", ["x", "values"], body, ["pads"])


def _function_max_pool(kernel: int, stride: int, pad: int) -> FunctionProto:
    """Separable max over rows, then columns; the padding is the smallest int32, so it never wins."""
    body = [
        _constant("amount", np.array([0, 0, pad, pad, 0, 0, pad, pad], dtype=np.int64)),
        _constant("lowest", np.array(INT32_MIN, dtype=np.int32)),
        helper.make_node("Pad", ["x", "amount", "lowest"], ["padded"]),
        _constant("step", np.array([stride], dtype=np.int64)),
    ]
    for i in range(kernel):
        last = i == kernel - 1
        end = np.iinfo(np.int64).max if last else i - kernel + 1
        body += [
            _constant(f"start_{i}", np.array([i], dtype=np.int64)),
            _constant(f"end_{i}", np.array([end], dtype=np.int64)),
        ]
    source = "padded"
    for label, axis, output in (("row", 2, "rows"), ("column", 3, "y")):
        body.append(_constant(f"{label}_axis", np.array([axis], dtype=np.int64)))
        parts = [f"{label}_{i}" for i in range(kernel)]
        for i, part in enumerate(parts):
            body.append(
                helper.make_node("Slice", [source, f"start_{i}", f"end_{i}", f"{label}_axis", "step"], [part])
            )
        body.append(helper.make_node("Max", parts, [output]))
        source = output
    return _function(pool_name(kernel, stride, pad), ["x"], body)


_FUNCTIONS = {
    "MultiplyShift": _function_multiply_shift,
    "Requantize": _function_requantize,
    "Threshold": _function_threshold,
    "SkipAdd": _function_skip_add,
    "ConvOdd": _function_conv_odd,
    "PadImage": _function_pad_image,
}


def function(op_type: str) -> FunctionProto:
    """The body of one dialect operation; KeyError for a name the dialect does not have."""
    pool = parse_pool_name(op_type)
    return _function_max_pool(*pool) if pool else _FUNCTIONS[op_type]()


def functions_for(nodes: Iterable[NodeProto]) -> list[FunctionProto]:
    """One function per dialect operation that `nodes` use, sorted by name."""
    return [function(name) for name in sorted({node.op_type for node in nodes if node.domain == DOMAIN})]


def node(op_type: str, inputs: Sequence[str], output: str, **attributes: Any) -> NodeProto:
    """A node of the dialect's domain, named after its output."""
    return helper.make_node(op_type, list(inputs), [output], name=output, domain=DOMAIN, **attributes)


def standard_node(op_type: str, inputs: Sequence[str], output: str, **attributes: Any) -> NodeProto:
    """A node of the ONNX domain, named after its output."""
    return helper.make_node(op_type, list(inputs), [output], name=output, **attributes)


def per_channel(values: Sequence[int], dtype: type) -> np.ndarray:
    """Constants [1, C, 1, 1] of `dtype`; OverflowError where a value does not fit."""
    return np.array(list(values), dtype=dtype).reshape(1, -1, 1, 1)


def make_model(
    nodes: Sequence[NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    initializers: Sequence[TensorProto],
    name: str = "integer",
) -> onnx.ModelProto:
    """An integer ONNX model with the function bodies its nodes need."""
    graph = helper.make_graph(list(nodes), name, list(inputs), list(outputs), list(initializers))
    return helper.make_model(
        graph,
        opset_imports=opset_imports(),
        functions=functions_for(nodes),
        ir_version=IR_VERSION,
        producer_name="aqd-deploy",
    )
