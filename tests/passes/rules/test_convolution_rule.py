"""Convolutions on integers, case by case."""

import numpy as np
import pytest
from odd_graphs import int8_image
from onnx import numpy_helper
from qdq_graphs import QdqBuilder, random_graph
from small_lowerings import (
    assert_agrees,
    chain,
    initializers,
    nodes_of,
    operators,
    state_after,
    values_of,
)

from aqd_deploy.passes.foreign_operations import ConvOffset
from aqd_deploy.passes.integer_operations import ConvInteger, ConvOdd, PadImage
from aqd_deploy.passes.pipeline import lower


def convolved(model):
    return state_after("move_scales", model)


def one_conv(bits, **conv):
    b = QdqBuilder(3)
    b.output(b.conv(b.image([0, 0, 0]), 4, bits, **conv), "out")
    return b.build()


@pytest.mark.parametrize("bits", [2, 4])
def test_weights_that_fit_int8(bits):
    state = convolved(one_conv(bits))
    (node,) = nodes_of(state, ConvInteger)
    stored = state.graph.constants[node.inputs[1]]
    assert stored.dtype == np.int8 and np.array_equal(stored, node.op.weights)
    assert nodes_of(state, ConvOdd) == []


def test_odd_weights_beyond_int8():
    """q = 2w + 1, and ones for the sums of windows."""
    state = convolved(one_conv(8))
    (node,) = nodes_of(state, ConvOdd)
    stored, ones = (state.graph.constants[name] for name in node.inputs[1:])
    assert stored.dtype == np.int8 and np.array_equal(2 * stored.astype(np.int64) + 1, node.op.weights)
    assert ones.shape == (1, 3, 3, 3) and (ones == 1).all()


def test_means_without_padding_move_into_the_offset():
    b = QdqBuilder(3)
    b.output(b.conv(b.image([7, 0, 2]), 4, 4, kernel=1), "out")
    values = values_of(b.build())
    (conv,) = (node for node in values.nodes if isinstance(node.op, ConvInteger))
    assert not any(isinstance(node.op, PadImage) for node in values.nodes) and conv.inputs[0] == "image"
    response = conv.op.weights.sum(axis=(2, 3)) @ np.array([7, 0, 2])
    assert [-form.b0 / form.a for form in values.scaled["out"].forms] == response.tolist()


def test_one_zero_point_a_tensor_is_also_its_padding():
    state = convolved(int8_image(3))
    (conv,) = nodes_of(state, ConvInteger)
    assert conv.op.zero_point == 3 and state.graph.constants[conv.inputs[2]] == np.int8(3)
    assert any(conv.op.window.pads)


def test_the_bias_is_an_exact_offset():
    values = values_of(one_conv(4, bias=True))
    bias = next(array for name, array in values.graph.constants.items() if name.startswith("bias"))
    assert [float(form.b0) for form in values.scaled["out"].forms] == bias.astype(np.float64).tolist()


def test_zero_points_a_channel_are_what_it_is_padded_with():
    state = convolved(int8_image([1, 2, 3]))
    (pad,) = nodes_of(state, PadImage)
    padding = state.graph.constants[pad.inputs[1]]
    assert padding.dtype == np.int8 and padding.ravel().tolist() == [1, 2, 3]


def weights_of_uint8(zero, group=1):
    """A convolution of uint8 codes 0 to 255 with a zero point."""

    def change(b, x):
        weight = b.constant("weight", b.rng.integers(0, 256, (4, 4 // group, 3, 3)).astype(np.uint8))
        scale, point = b.constant("step_w", np.float32(0.01)), b.constant("zero", np.uint8(zero))
        w = b.node("DequantizeLinear", [weight, scale, point])
        return b.conv(b.quantize(b.relu(x), 8, 0.02), 4, 8, weights=w, group=group)

    return chain(change)


@pytest.mark.parametrize(("zero", "group"), [(0, 1), (121, 1), (255, 2), (128, 4)])
def test_uint8_weights_with_a_zero_point_are_int8_and_an_offset(zero, group):
    qdq = weights_of_uint8(zero, group)
    state = convolved(qdq)
    node = nodes_of(state, ConvInteger if zero == 128 else ConvOffset)[-1]
    stored = state.graph.constants[node.inputs[1]]
    assert stored.dtype == np.int8 and node.op.weights.min() == -zero
    assert_agrees(qdq, lower(qdq))


def test_a_depthwise_convolution_takes_one_scale_a_channel():
    b = QdqBuilder(3)
    b.initializers.append(numpy_helper.from_array(np.array([1, 0.5, 2], np.float32), "std"))
    mean = b.constant("mean", np.array([3, 0, 200], np.uint8))
    x = b.node("DequantizeLinear", ["image", "std", mean], axis=1)
    b.output(b.conv(x, 3, 7, group=3, odd=False), "out")
    qdq = b.build()
    assert_agrees(qdq, lower(qdq))


def test_image_means_become_padding_and_offset():
    model = lower(chain(lambda b, x: b.relu(x))).model
    pad = next(node for node in model.graph.node if node.op_type == "PadImage")
    assert initializers(model)[pad.input[1]].ravel().tolist() == [104, 116, 124]
    conv = next(node for node in model.graph.node if node.op_type == "ConvOdd")
    assert next(list(a.ints) for a in conv.attribute if a.name == "pads") == [0, 0, 0, 0]
    assert conv.input[0] == pad.output[0]


def test_image_with_mean_zero_needs_no_padding_node():
    b = QdqBuilder(2)
    b.output(b.conv(b.image([0, 0, 0]), 4, 8), "out")
    qdq = b.build()
    result = lower(qdq)
    assert "PadImage" not in operators(result.model)
    assert_agrees(qdq, result)


def test_shared_head_keeps_one_weight_initializer():
    """Two levels share three convolutions: six ConvInteger or ConvOdd nodes, three weight tensors."""
    seed = next(
        s for s in range(50) if sum(o.name.startswith("cls") for o in random_graph(s).graph.output) == 2
    )
    model = lower(random_graph(seed, bits=4)).model
    outputs = {node.output[0]: node for node in model.graph.node}
    users = {}
    for node in model.graph.node:
        if node.op_type in ("ConvInteger", "ConvOdd"):
            users.setdefault(node.input[1], []).append(node)
    shared = {name: nodes for name, nodes in users.items() if len(nodes) > 1}
    assert sorted(len(nodes) for nodes in shared.values()) == [2, 2, 2]
    assert len({name for name in shared if name in initializers(model)}) == 3
    assert all(f"{kind}_p{level}" in outputs for kind in ("cls", "box") for level in (3, 4))
