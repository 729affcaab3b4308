"""Averages and maxima of whole maps."""

import numpy as np
import pytest
from small_files import FileBuilder, ops


def pooled(op, made, *operands, opset=17, **attributes):
    b = FileBuilder(opset=opset)
    x = b.quantize(
        b.node(
            op,
            [b.conv(b.quantize("image")), *[b.constant("axes", np.array(o)) for o in operands]],
            **attributes,
        ),
        0.5,
    )
    shape = b.constant("map", np.array([1, 4, -1, 1]))
    state = b.rewritten(b.conv(b.node("Reshape", [x, shape])))
    assert ops(state.model) == ["Conv", made, "Conv"]
    (pool,) = [node for node in state.model.graph.node if node.op_type == made]
    return next(list(a.ints) for a in pool.attribute if a.name == "kernel_shape")


@pytest.mark.parametrize(("op", "made"), [("GlobalAveragePool", "AveragePool"), ("GlobalMaxPool", "MaxPool")])
def test_case_1_global_pools(op, made):
    assert pooled(op, made) == [6, 6]


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize(("op", "made"), [("ReduceMean", "AveragePool"), ("ReduceMax", "MaxPool")])
def test_case_2_means_and_maxima(op, made, keepdims):
    assert pooled(op, made, axes=[-1, 2], keepdims=keepdims) == [6, 6]
    assert pooled(op, made, [2, 3], opset=18, keepdims=keepdims) == [6, 6]
    assert pooled(op, made, axes=[3], keepdims=1) == [1, 6]


def test_case_3_over_channels_it_stays():
    b = FileBuilder()
    y = b.node("ReduceMean", [b.conv(b.quantize("image"))], axes=[1], keepdims=1)
    assert ops(b.rewritten(y).tail) == ["ReduceMean"]
