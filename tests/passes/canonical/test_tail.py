"""Where a file is cut."""

import numpy as np
import pytest
from canonical_meaning import manifest_entry
from small_files import FileBuilder, ops


def head(b):
    return b.conv(b.quantize("image"))


def test_case_1_a_node_that_no_quantizer_stands_behind():
    b = FileBuilder()
    x = head(b)
    y = b.node("Relu", [b.node("Sigmoid", [x])])
    state = b.rewritten(y)
    assert ops(state.model) == ["Conv"] and ops(state.tail) == ["Sigmoid", "Relu"]
    assert [value.name for value in state.tail.graph.input] == [x]


def test_case_1_softmax_goes_with_its_quantizers():
    b = FileBuilder()
    state = b.rewritten(b.quantize(b.node("Softmax", [b.quantize(head(b), 0.5)], axis=1), 1 / 255))
    assert [node.op_type for node in state.tail.graph.node] == [
        "Softmax",
        "QuantizeLinear",
        "DequantizeLinear",
    ]


def test_case_2_products_of_reals_belong_to_the_tail():
    b = FileBuilder()
    x = head(b)
    weights = b.constant("real", b.rng.normal(0, 1, (4, 4, 1, 1)).astype(np.float32))
    assert ops(b.rewritten(b.node("Conv", [x, weights])).tail) == ["Conv"]
    b = FileBuilder()
    x = head(b)
    assert ops(b.rewritten(b.node("Mul", [x, x])).tail) == ["Mul"]
    b = FileBuilder()
    x = head(b)
    half = b.constant("half", np.float32(0.5))
    assert b.rewritten(b.node("Mul", [x, half])).tail is None


def test_case_2_constants_behind_quantizers_go_along():
    """A convolution of a real tensor, with dequantized weights."""
    b = FileBuilder()
    state = b.rewritten(b.conv(b.node("Tanh", [head(b)])))
    assert [node.op_type for node in state.tail.graph.node] == ["Tanh", "DequantizeLinear", "Conv"]


def test_case_2_a_convolution_of_codes_that_a_relu_has_clipped_is_kept():
    b = FileBuilder()
    x = b.quantize(b.node("Relu", [head(b)]))
    assert b.rewritten(b.conv(b.node("Relu", [x]))).tail is None


def test_case_2_resize_that_copies_is_kept():
    for mode, cut in (("nearest", False), ("linear", True)):
        b = FileBuilder()
        by = b.constant("by", np.array([1, 1, 2, 2], np.float32))
        told = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        y = b.node("Resize", [head(b), "", by], mode=mode, **told)
        assert (b.rewritten(y).tail is not None) == cut


def test_case_3_layout_in_front_of_the_tail():
    b = FileBuilder()
    x = head(b)
    y = b.node("Reshape", [x, b.constant("to", np.array([1, 4, 36]))])
    y = b.node("Softmax", [b.node("Transpose", [y], perm=[0, 2, 1])], axis=2)
    state = b.rewritten(y)
    assert ops(state.tail) == ["Reshape", "Transpose", "Softmax"] and ops(state.model) == ["Conv"]


def test_case_3_layout_that_both_parts_read():
    """As the values of an attention, which a convolution reads as well."""
    b = FileBuilder()
    to, back = b.constant("to", np.array([1, 2, 2, 36])), b.constant("back", np.array([1, 2, 6, 6]))
    heads = b.node("Reshape", [head(b), to])
    ends = [b.constant(name, np.array([value])) for name, value in (("from", 1), ("until", 2), ("axis", 2))]
    values = b.node("Slice", [heads, *ends])
    weights = b.node("Softmax", [values], axis=-1)
    kept = b.conv(b.quantize(b.node("Reshape", [values, back])), 2, 2)
    state = b.rewritten(weights, kept)
    assert ops(state.tail) == ["Reshape", "Slice", "Softmax"]
    assert [value.name for value in state.tail.graph.input] == [state.model.graph.output[1].name]
    assert ops(state.model) == ["Conv", "Gather", "Conv"]


def test_case_4_the_boundary_is_an_output_under_its_name():
    b = FileBuilder()
    x = head(b)
    state = b.rewritten(b.node("Add", [b.node("Sigmoid", [x]), b.node("Tanh", [x])]))
    assert [value.name for value in state.model.graph.output] == [x]
    assert manifest_entry(state.model)["tail"]["inputs"].keys() == {x}


@pytest.mark.parametrize("shared", [False, True])
def test_case_5_an_output_that_needs_no_tail(shared):
    b = FileBuilder()
    x = head(b)
    other = x if shared else b.node("Relu", [b.conv(b.quantize(x, 0.5))])
    state = b.rewritten(other, b.node("Sigmoid", [x]))
    assert {value.name for value in state.model.graph.output} == {other, x}
    assert len(state.tail.graph.output) == 1


def test_case_3_layout_in_front_of_an_output():
    """The maps of YOLOv5: [1, anchors, rows, columns, channels of an anchor]."""
    b = FileBuilder()
    y = b.node("Reshape", [head(b), b.constant("to", np.array([1, 2, 2, 6, 6]))])
    state = b.rewritten(b.node("Transpose", [y], perm=[0, 1, 3, 4, 2]))
    assert ops(state.tail) == ["Reshape", "Transpose"] and ops(state.model) == ["Conv"]


def test_case_3_layout_that_keeps_the_order_is_no_tail():
    b = FileBuilder()
    pooled = b.node("MaxPool", [head(b)], kernel_shape=[6, 6])
    y = b.node(
        "Reshape", [b.node("Transpose", [pooled], perm=[0, 2, 3, 1]), b.constant("to", np.array([1, 4]))]
    )
    assert b.rewritten(y).tail is None
