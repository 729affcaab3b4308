"""Vectors and moved elements."""

import numpy as np
import pytest
from canonical_meaning import canonical, manifest_entry
from small_files import FileBuilder, constants_of, ops


def start(b):
    return b.quantize(b.conv(b.quantize("image")), 0.5)


def matrix(b, inside, out, transposed=True):
    return b.weights((out, inside) if transposed else (inside, out), 0 if transposed else 1)


def test_case_1_what_only_moves_elements_is_noted():
    b = FileBuilder()
    x = b.node("Unsqueeze", [b.node("Flatten", [start(b)]), b.constant("axes", np.array([1]))])
    x = b.node("Squeeze", [b.node("Transpose", [x], perm=[1, 0, 2]), "axes"])
    ends = [b.constant(f"k{i}", np.array([v])) for i, v in enumerate((0, 72, 1))]
    x = b.node("Slice", [x, *ends])
    x = b.node("Concat", [x, x], axis=1)
    state = b.rewritten(b.node("Gemm", [x, matrix(b, 144, 5)], transB=1))
    assert "Reshape" not in ops(state.model) or "Gemm" in ops(state.model)


@pytest.mark.parametrize("order", [None, [0, 2, 3, 1]])
@pytest.mark.parametrize("transposed", [0, 1])
def test_case_2_a_matrix_product_is_a_convolution_with_the_window_of_the_map(transposed, order):
    """Also where the elements lie channel by channel."""
    b = FileBuilder()
    x = start(b)
    x = x if order is None else b.node("Transpose", [x], perm=order)
    bias = b.constant("bias", b.rng.normal(0, 1, 5).astype(np.float32))
    y = b.node("Gemm", [b.node("Flatten", [x]), matrix(b, 144, 5, transposed), bias], transB=transposed)
    state = b.rewritten(y)
    assert ops(state.model) == ["Conv", "Conv"]
    assert (5, 4, 6, 6) in [array.shape for array in constants_of(state.model).values()]


def test_case_2_matmul():
    b = FileBuilder()
    y = b.node("MatMul", [b.node("Flatten", [start(b)]), matrix(b, 144, 5, False)])
    bias = b.constant("bias", b.rng.normal(0, 1, 5).astype(np.float32))
    state = b.rewritten(b.node("Add", [y, bias]))
    assert ops(state.model) == ["Conv", "Conv", "Add"]


@pytest.mark.parametrize("settings", [{"alpha": 0.5}, {"beta": 2.0}])
def test_case_2_factors_stay(settings):
    b = FileBuilder()
    bias = b.constant("bias", b.rng.normal(0, 1, 5).astype(np.float32))
    y = b.node("Gemm", [b.node("Flatten", [start(b)]), matrix(b, 144, 5), bias], transB=1, **settings)
    assert "Gemm" in ops(canonical(b.model(b.quantize(y))).model)


def test_case_3_element_wise_nodes_between_flatten_and_gemm():
    b = FileBuilder()
    x = b.node("Flatten", [start(b)])
    x = b.node("Mul", [x, b.constant("each", b.rng.uniform(0.5, 1, (1, 144)).astype(np.float32))])
    x = b.quantize(b.node("Relu", [x]), 0.25)
    state = b.rewritten(b.node("Gemm", [x, matrix(b, 144, 5)], transB=1))
    assert ops(state.model) == ["Conv", "Mul", "Relu", "Conv"]
    assert (1, 4, 6, 6) in [array.shape for array in constants_of(state.model).values()]


def test_case_3_scales_of_one_a_channel_of_a_vector():
    b = FileBuilder()
    x = b.node("Gemm", [b.node("Flatten", [start(b)]), matrix(b, 144, 5)], transB=1)
    names = [
        b.constant("ps", b.rng.uniform(0.2, 0.5, 5).astype(np.float32)),
        b.constant("pz", np.zeros(5, np.int8)),
    ]
    q = b.node("QuantizeLinear", [x, *names], axis=1)
    state = b.rewritten(b.node("DequantizeLinear", [q, *names], axis=1))
    assert ops(state.model) == ["Conv", "Conv"]


def test_case_4_vectors_are_joined():
    b = FileBuilder()
    x = b.node("Flatten", [start(b)])
    y = [b.quantize(b.node("Gemm", [x, matrix(b, 144, n)], transB=1), 0.5) for n in (3, 4)]
    state = b.rewritten(b.node("Gemm", [b.node("Concat", y, axis=-1), matrix(b, 7, 5)], transB=1))
    assert ops(state.model) == ["Conv", "Conv", "Conv", "Concat", "Conv"]


def test_case_5_shuffled_channels():
    b = FileBuilder()
    x = b.node("Reshape", [start(b), b.constant("g", np.array([1, 2, 2, 6, 6]))])
    x = b.node(
        "Reshape", [b.node("Transpose", [x], perm=[0, 2, 1, 3, 4]), b.constant("h", np.array([1, 4, 6, 6]))]
    )
    state = b.rewritten(b.conv(x))
    assert ops(state.model) == ["Conv", "Gather", "Conv"]
    assert [0, 2, 1, 3] in [array.tolist() for array in constants_of(state.model).values()]


@pytest.mark.parametrize(
    ("inner", "perm"), [([1, 1, 2, 2, 6, 6], [0, 1, 4, 2, 5, 3]), ([1, 2, 2, 1, 6, 6], [0, 3, 4, 1, 5, 2])]
)
def test_case_5_depth_to_space(inner, perm):
    b = FileBuilder()
    x = b.node("Transpose", [b.node("Reshape", [start(b), b.constant("g", np.array(inner))])], perm=perm)
    x = b.node("Reshape", [x, b.constant("h", np.array([1, 1, 12, 12]))])
    assert ops(b.rewritten(b.conv(x, 4, 1)).model) == ["Conv", "DepthToSpace", "Conv"]


def test_case_5_a_map_again():
    """Squeeze-and-excite by linear layers."""
    b = FileBuilder()
    x = start(b)
    y = b.quantize(b.node("Flatten", [b.node("GlobalAveragePool", [x])]), 0.1)
    y = b.quantize(b.node("Gemm", [y, matrix(b, 4, 4)], transB=1), 0.1)
    y = b.node("Reshape", [y, b.constant("to", np.array([1, 4, 1, 1]))])
    state = b.rewritten(b.conv(b.quantize(b.node("Mul", [x, y]))))
    assert ops(state.model) == ["Conv", "AveragePool", "Conv", "Mul", "Conv"]


def test_case_6_an_output_is_a_map_and_keeps_its_name():
    b = FileBuilder()
    y = b.node("Gemm", [b.node("Flatten", [start(b)]), matrix(b, 144, 5)], transB=1)
    state = b.rewritten(y)
    assert manifest_entry(state.model)["shapes"] == {y: [1, 5]}
    (value,) = state.model.graph.output
    assert value.name == y and [d.dim_value for d in value.type.tensor_type.shape.dim] == [1, 5, 1, 1]


def test_case_6_an_output_that_is_only_reshaped():
    b = FileBuilder()
    x = start(b)
    y = b.node("Reshape", [x, b.constant("to", np.array([1, 144]))])
    state = b.rewritten(y, x)
    assert manifest_entry(state.model)["shapes"] == {y: [1, 144]}


def reshaped(b, x, *shape):
    return b.node("Reshape", [x, b.constant("x".join(map(str, shape)), np.array(shape))])


def turned(b, x):
    """Rows and columns of [1, 4, 6, 6] and of its halves change places."""
    return b.node("Transpose", [x], perm=[0, 1, 3, 2])


def through_squares(b, x):
    return reshaped(b, b.node("SpaceToDepth", [reshaped(b, x, 1, 1, 12, 12)], blocksize=2), 1, 16, 3, 3)


def through_channels(b, x):
    return reshaped(b, b.node("DepthToSpace", [reshaped(b, x, 1, 16, 3, 3)], blocksize=2), 1, 1, 9, 16)


def some_of(b, x):
    bounds = [b.constant(f"k{i}", np.array([v])) for i, v in enumerate((1, 6, 2, 2))]
    parts = [b.node("Slice", [reshaped(b, x, 1, 4, 36), *bounds])] * 2
    return reshaped(b, b.node("Concat", parts, axis=2), 1, 4, 6, 1)


@pytest.mark.parametrize(
    ("change", "channels"), [(turned, 4), (through_squares, 16), (through_channels, 1), (some_of, 4)]
)
def test_case_7_any_other_order(change, channels):
    """Once, however many read it, and quantizers and functions stand in front."""
    b = FileBuilder()
    y = b.quantize(b.node("Relu", [change(b, start(b))]))
    state = b.rewritten(b.conv(y, channels, 1), b.conv(y, channels, 1))
    assert ops(state.model) == ["Conv", "Relu", "GatherND", "Conv", "Conv"]


def test_case_7_maps_of_two_orders_are_added():
    b = FileBuilder()
    x = start(b)
    y = b.quantize(b.node("Add", [x, turned(b, x)]))
    assert ops(b.rewritten(b.conv(y)).model) == ["Conv", "GatherND", "Add", "Conv"]


def test_case_8_what_cannot_be_placed_reads_what_the_file_made():
    b = FileBuilder()
    x = b.node("Flatten", [start(b)])
    y = b.quantize(b.node("CumSum", [x, b.constant("axis", np.array(1))]), 2.0)
    y = b.node("Gemm", [y, matrix(b, 144, 5)], transB=1)
    assert {"Flatten", "CumSum", "Gemm"} <= set(ops(canonical(b.model(y)).model))
