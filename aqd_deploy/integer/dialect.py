"""Builds integer ONNX: nodes, constants, and models that carry the function bodies that their nodes call.

Each operation that ONNX has no integer word for is a model-local function (`integer.operations`), so
onnxruntime's CPU provider runs an integer file as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import FunctionProto, NodeProto, TensorProto, helper

from aqd_deploy.integer.domain import DOMAIN, DOMAIN_VERSION, IR_VERSION, OPSET
from aqd_deploy.integer.operations import function


def opset_imports() -> list[onnx.OperatorSetIdProto]:
    """The opset imports of an integer file: ONNX 21 and the dialect's domain."""
    return [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, DOMAIN_VERSION)]


def functions_for(nodes: Iterable[NodeProto]) -> list[FunctionProto]:
    """One function per dialect operation that `nodes` use, sorted by name. Raises UnsupportedModelError for
    one that the dialect does not have.
    """
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
