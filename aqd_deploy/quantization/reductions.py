"""Reductions within the graph, whose results are small where tensors are large."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import NodeProto, helper

from aqd_deploy.passes.canonical.draft import Draft


def reduction(draft: Draft, op_type: str, name: str, axes: Sequence[int]) -> NodeProto:
    """ReduceMean, ReduceMin or ReduceMax of a tensor over these axes, which go; axes are an attribute before
    opset 18 and an input from it on.
    """
    output = f"{name}_{op_type}"
    if draft.opset < 18:
        return helper.make_node(op_type, [name], [output], output, keepdims=0, axes=list(axes))
    inputs = [name, draft.constant(f"{output}_axes", np.array(axes, np.int64))]
    return helper.make_node(op_type, inputs, [output], output, keepdims=0)
