"""What can't be lowered is refused with its reason and, where there is one, the next command."""

import json

import numpy as np
import onnx
import pytest
from odd_graphs import last_weight
from onnx import TensorProto, helper, numpy_helper
from qdq_graphs import QdqBuilder, random_graph

from aqd_deploy.errors import (
    AqdError,
    ModelFileError,
    RangeError,
    ScaleError,
    ShapeError,
    UnsupportedModelError,
)
from aqd_deploy.passes.pipeline import lower


def conv_graph(change=None, bits=4, **conv):
    """image → conv → quantizer → conv → BN → ReLU → output; `change(builder, tensor)` may replace the end."""
    b = QdqBuilder(1)
    x = b.relu(b.batch_norm(b.conv(b.image(), 4, 8), "positive"))
    x = b.conv(b.quantize(x, bits), 4, bits, **conv)
    x = change(b, x) if change else b.relu(b.batch_norm(x, "positive"))
    b.output(x, "cls_p3")
    return b.build()


def with_constant(model, prefix, value):
    """The model with the first initializer of that name prefix filled with `value`."""
    for tensor in model.graph.initializer:
        if tensor.name.startswith(prefix):
            array = np.full_like(numpy_helper.to_array(tensor), value)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
            return model
    raise AssertionError(f"no initializer {prefix}")


def quantized_again(change):
    """`change` with a quantizer behind it: without one it would go to the tail."""
    return lambda b, x: b.conv(b.quantize(change(b, x), 4), 4, 4, kernel=1)


def group_norm(b, x):
    names = [b.constant("gn", np.ones(4, dtype=np.float32)) for _ in range(2)]
    return b.node("GroupNormalization", [x, *names], num_groups=2)


def instance_norm(b, x):
    """GroupNorm as exporters write it below opset 18: reshape, InstanceNormalization, reshape."""
    shape = [b.constant("shape", np.array(v, dtype=np.int64)) for v in ([0, 2, -1], [1, 4, 8, 8])]
    names = [b.constant("in", np.ones(2, dtype=np.float32)) for _ in range(2)]
    y = b.node("Reshape", [x, shape[0]], (2, 128, 1))
    y = b.node("InstanceNormalization", [y, *names])
    return b.node("Reshape", [y, shape[1]], (4, 8, 8))


@pytest.mark.parametrize("change", [group_norm, instance_norm])
def test_group_norm_is_named_and_explained(change):
    with pytest.raises(UnsupportedModelError) as caught:
        lower(conv_graph(quantized_again(change)))
    assert "recomputes mean and variance" in str(caught.value)
    assert "multi-level batch norm" in caught.value.next_command


@pytest.mark.parametrize(
    ("op", "reason"), [("Softmax", "exponentials"), ("Det", "no word"), ("Hardmax", "no word")]
)
def test_operators_without_an_integer_form(op, reason):
    with pytest.raises(UnsupportedModelError, match=reason) as caught:
        lower(conv_graph(quantized_again(lambda b, x: b.node(op, [x]))))
    assert caught.value.received == op


def test_operator_of_another_domain():
    model = conv_graph(quantized_again(lambda b, x: b.relu(x)))
    next(node for node in reversed(model.graph.node) if node.op_type == "Relu").domain = "com.example"
    with pytest.raises(UnsupportedModelError, match=r"com\.example"):
        lower(model)


@pytest.mark.parametrize("value", [0.0, -0.5, float("nan"), float("inf")])
@pytest.mark.parametrize("which", ["step_", "step_w_", "std_"])
def test_scales_must_be_positive_and_finite(which, value):
    model = conv_graph()
    if which == "step_":
        name = next(n for n in model.graph.node if n.op_type == "QuantizeLinear").input[1]
        which = name
    with pytest.raises(ScaleError, match="quantization step"):
        lower(with_constant(model, which, value))


def test_dynamic_shape_needs_a_shape():
    model = conv_graph()
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    with pytest.raises(ShapeError, match="height") as caught:
        lower(model)
    assert "--shape 1x3x320x320 " in caught.value.next_command
    lowered = lower(model, shape=[1, 3, 12, 8]).model
    assert [d.dim_value for d in lowered.graph.input[0].type.tensor_type.shape.dim] == [1, 3, 12, 8]
    assert lower(model, shape={"image": [1, 3, 12, 8]}).model == lowered


@pytest.mark.parametrize(
    "shape",
    [
        [1, 3, 8], [1, 5, 8, 8], [2, 3, 8, 8], {"picture": [1, 3, 8, 8]}, [1, 3, 8.5, 8], [1, 3, 8.0, 8],
        {"image": [1, 3, "h", 8]}, [1, 3, True, 8], [1, 3, -8, 8], [1, 3, 1 << 70, 8], 8, "1x3x8x8",
    ],
)  # fmt: skip
def test_shapes_that_do_not_fit(shape):
    with pytest.raises(ShapeError):
        lower(conv_graph(), shape=shape)


def test_float_convolutions_are_aqd_star():
    """A convolution of a real tensor, and one with float weights."""

    def unquantized_input(b, x):
        return b.conv(x, 4, 4)

    def float_weights(b, x):
        weights = b.constant("float_weight", np.ones((4, 4, 3, 3), dtype=np.float32))
        return b.conv(b.quantize(x, 4), 4, 4, weights=weights)

    for change in (unquantized_input, float_weights):
        with pytest.raises(UnsupportedModelError, match="Conv of numbers that nothing quantized") as caught:
            lower(conv_graph(quantized_again(change)))
        assert "AQD*" in str(caught.value)


def test_accumulator_that_could_overflow_names_node_channel_and_bound():
    """1x1 over 40,000 channels of 8-bit pixels and weights of 255 would pass 2^31."""
    channels = 40_000
    b = QdqBuilder(1, 1, 1, channels)
    weights = b.constant("weight", np.full((2, channels, 1, 1), 255, dtype=np.int16))
    scale = b.constant("step_w", np.array(0.01, dtype=np.float32))
    w = b.node("DequantizeLinear", [weights, scale])
    image = b.image([0] * channels)
    b.output(b.conv(image, 2, 8, kernel=1, weights=w), "cls_p3")
    with pytest.raises(RangeError, match=r"Conv_conv_\d+: channel 0 can reach \[0, 2601000000\]"):
        lower(b.build())


def test_integer_file_is_not_lowered_again():
    with pytest.raises(UnsupportedModelError, match="already"):
        lower(lower(conv_graph()).model)


def test_old_opset():
    model = conv_graph()
    model.opset_import[0].version = 11
    with pytest.raises(UnsupportedModelError, match="opset"):
        lower(model)


def test_damaged_manifest():
    model = conv_graph()
    model.metadata_props[0].value = "{not json"
    with pytest.raises(ModelFileError, match="JSON"):
        lower(model)


def test_unknown_numerics_lists_the_modes():
    with pytest.raises(UnsupportedModelError, match="exact, paper, power-of-two"):
        lower(conv_graph(), numerics="float")


def test_float_islands_are_refused():
    with pytest.raises(AqdError, match="float islands"):
        lower(conv_graph(), allow_float_islands=True)


def test_a_name_that_the_compiler_keeps_for_itself():
    model = conv_graph()
    model.graph.output[0].name = model.graph.node[-1].output[0] = "cls:nchw"
    with pytest.raises(ModelFileError, match="do not end in :nchw"):
        lower(model)


def test_grouped_odd_8_bit_weights():
    with pytest.raises(UnsupportedModelError, match="odd numbers within"):
        lower(conv_graph(bits=8, group=2))


def test_even_weights_beyond_int8():
    model = with_one_constant(conv_graph(bits=8), "weight", 200)
    with pytest.raises(UnsupportedModelError, match="odd numbers"):
        lower(model)


def test_image_with_one_std_a_channel():
    model = conv_graph()
    for tensor in model.graph.initializer:
        if tensor.name.startswith("std"):
            array = np.array([1, 0.5, 2], dtype=np.float32)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    with pytest.raises(UnsupportedModelError, match="one scale per channel"):
        lower(model)


def with_one_constant(model, prefix, value):
    """The model with the first number of the first initializer of that name prefix replaced."""
    for tensor in model.graph.initializer:
        if tensor.name.startswith(prefix):
            array = numpy_helper.to_array(tensor).copy()
            array.ravel()[0] = value
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
            return model
    raise AssertionError(f"no initializer {prefix}")


def with_manifest(model, **entries):
    onnx.helper.set_model_props(model, {"aqd.manifest": json.dumps({"schema": 1, **entries})})
    return model


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("even", [0, 2, -2])
def test_weights_that_are_not_odd(bits, even):
    """A file that says AQD's bits has odd integers only; one that says nothing may have any."""
    odd = with_manifest(conv_graph(bits=bits), bits={"weights": bits, "first_last": 8})
    lower(odd)
    with pytest.raises(
        UnsupportedModelError, match=rf"1 of the weights weight_\d+ aren't .*odd.*got {even};"
    ):
        lower(with_one_constant(odd, "weight", even))


@pytest.mark.parametrize("even", [-128, 126])
def test_weights_that_are_odd_only_once_clipped(even):
    model = conv_graph(bits=2)
    with_one_constant(model, last_weight(model), even)
    lower(model)
    with pytest.raises(UnsupportedModelError, match=rf"1 of the weights .*odd.*got {even};"):
        lower(with_manifest(model, bits={"weights": 2, "first_last": 8}))


def test_weights_of_a_file_that_says_no_bits_may_be_even():
    lower(conv_graph(odd=False))
    with pytest.raises(UnsupportedModelError, match="odd"):
        lower(with_manifest(conv_graph(odd=False), bits={"weights": 4, "first_last": 8}))


def batch_of_four():
    model = conv_graph()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    return model


def test_a_batch_is_refused_with_a_shape_that_works():
    with pytest.raises(ShapeError, match=r"--shape 1x3x8x8 -o"):
        lower(batch_of_four())
    lower(batch_of_four(), shape=[1, 3, 8, 8])


@pytest.mark.parametrize("error", [ArithmeticError, OverflowError, ZeroDivisionError])
@pytest.mark.parametrize("solver", ["solve_requantize.solve_requantize_channels", "streams.solve_scale"])
def test_scales_that_leave_the_arithmetic_name_their_node(monkeypatch, solver, error):
    def refuse(*_, **__):
        raise error("no multiplier fits")

    monkeypatch.setattr(f"aqd_deploy.passes.{solver}", refuse)
    with pytest.raises(RangeError, match=r"node \w*: .*no multiplier fits.*retrain"):
        lower(conv_graph())


@pytest.mark.parametrize("numerics", ["exact", "paper", "power-of-two"])
@pytest.mark.parametrize("step", [1e-20, 1e-38, 1e20])
@pytest.mark.parametrize("which", ["step_", "step_w_"])
def test_steps_of_dead_layers_are_lowered(which, step, numerics):
    """A skip-add of a dead branch and a live one, and requantizations of both."""

    def branches(b, x):
        dead = b.batch_norm(b.conv(b.quantize(x, 4), 4, 4), "positive")
        return b.relu(b.add(dead, b.batch_norm(b.conv(b.quantize(x, 4), 4, 4), "positive")))

    model = conv_graph(branches)
    names = [n.input[1] for n in model.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    name = [name for name in names if name.startswith(which) and (which != "step_" or "_w_" not in name)][1]
    lower(with_constant(model, name, step), numerics=numerics)


def test_broken_batch_norm():
    with pytest.raises(UnsupportedModelError, match="finite"):
        lower(with_constant(conv_graph(), "bn", np.nan))


def stream_pool(b, x):
    return b.node("MaxPool", [x], (4, 7, 8), kernel_shape=[2, 1], strides=[1, 1], pads=[0, 0, 0, 0])


def rows_joined(b, x):
    return b.node("Concat", [x, x], (4, 16, 8), axis=2)


@pytest.mark.parametrize(
    ("change", "match"),
    [(stream_pool, "square kernel"), (rows_joined, "axis = 2")],
)
def test_forms_the_dialect_does_not_have(change, match):
    with pytest.raises(UnsupportedModelError, match=match):
        lower(conv_graph(change))


def test_float_input():
    b = QdqBuilder(1)
    b.inputs[0] = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 8, 8])
    b.output(b.conv(b.quantize(b.relu("image"), 8), 4, 8), "y")
    with pytest.raises(UnsupportedModelError, match="8-bit image; got float"):
        lower(b.build())


def test_refused_models_are_left_as_they_were():
    model = random_graph(1)
    before = onnx.ModelProto()
    before.CopyFrom(model)
    with pytest.raises(ShapeError):
        lower(model, shape=[1, 7, 8, 8])
    assert model == before


def test_names_that_are_no_text():
    model = conv_graph()
    data = model.SerializeToString().replace(b"cls_p3", b"\xff" * 6)
    with pytest.raises(ModelFileError, match="name that can't be kept"):
        lower(onnx.ModelProto.FromString(data))
