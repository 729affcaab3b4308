"""What joins a convolution, and what does not."""

import numpy as np
import pytest
from onnx import TensorProto, helper
from small_models import ModelWriter

from aqd_deploy.compiler.fusion import fuse
from aqd_deploy.compiler.plan import Concat, Conv, MaxPool, Pad, Plan, Pointwise, Resize
from aqd_deploy.errors import RangeError, ShapeError, UnsupportedModelError
from aqd_deploy.integer.reader import read_graph
from aqd_deploy.kernels.contract.spec import (
    AddBias,
    MultiplyShift,
    Relu,
    SkipAdd,
    StoreRequantize,
    StoreStream,
    StoreThreshold,
)


def plan_of(writer: ModelWriter) -> Plan:
    return fuse(read_graph(writer.model()))


def kinds(plan: Plan) -> list[type]:
    return [type(op) for op in plan.operations]


@pytest.fixture
def w():
    return ModelWriter()


@pytest.fixture
def conv(w):
    """A convolution of an 8-channel 6x6 image to 4 channels."""
    image = w.image("image", 8, 6, 6)
    return w.conv(image, w.weight(4, 8, 3), pads=[1, 1, 1, 1])


def test_chain_becomes_one_convolution(w, conv):
    w.output(w.requantize(w.relu(w.multiply_shift(w.bias(conv, 4), 4)), 4), dtype=TensorProto.UINT8)
    (op,) = plan_of(w).operations
    assert op.epilogue.stages == (AddBias(), MultiplyShift(), Relu())
    assert op.epilogue.stores == (StoreRequantize(0, 15, "uint8"),)
    assert [v.dtype for v in op.operands] == [
        np.int32,
        np.int32,
        np.int64,
        np.int32,
        np.int32,
        np.int64,
        np.int32,
    ]


def test_several_readers_become_several_stores(w, conv):
    stream = w.relu(conv)
    a, b, c = w.requantize(stream, 4), w.threshold(stream, 4), w.max_pool_s32(stream, 3, 2, 1)
    for name, dtype in ((a, TensorProto.UINT8), (b, TensorProto.UINT8), (c, TensorProto.INT32)):
        w.output(name, dtype=dtype)
    plan = plan_of(w)
    assert kinds(plan) == [Conv, MaxPool]
    assert plan.operations[0].epilogue.stores == (
        StoreStream(),
        StoreRequantize(0, 15, "uint8"),
        StoreThreshold(0, 3, "uint8"),
    )
    assert plan.operations[0].outputs == (stream, a, b)


def test_a_value_read_before_and_after_relu_ends_the_chain(w, conv):
    w.output(w.relu(conv))
    w.output(w.requantize(conv, 4), dtype=TensorProto.UINT8)
    plan = plan_of(w)
    assert kinds(plan) == [Conv, Pointwise]
    assert plan.operations[1].epilogue.stages == (Relu(),)


def test_a_graph_output_inside_the_chain_ends_it(w, conv):
    w.output(conv)
    w.output(w.relu(conv))
    assert kinds(plan_of(w)) == [Conv, Pointwise]


def test_skip_add_of_two_convolutions_joins_one_that_waits_for_the_other(w):
    image = w.image("image", 8, 6, 6)
    first = w.conv(image, w.weight(4, 8, 1))
    second = w.conv(image, w.weight(4, 8, 1))
    w.output(w.relu(w.skip_add(first, second, 4, identity="a")))
    plan = plan_of(w)
    assert kinds(plan) == [Conv, Conv]
    other, joined = plan.operations
    assert other.outputs == (second,)
    assert joined.epilogue.stages == (SkipAdd(1, True, False), Relu())
    assert joined.operands[0] == second


def test_resize_becomes_the_upsampling_of_the_skip_add(w, conv):
    small = w.conv(w.requantize(conv, 4), w.weight(4, 4, 3), strides=[2, 2], pads=[0, 0, 1, 1])
    lateral = w.conv(w.requantize(conv, 4), w.weight(4, 4, 1))
    w.output(w.skip_add(w.upsample(small, 2), lateral, 4))
    plan = plan_of(w)
    assert kinds(plan) == [Conv, Conv, Conv]
    assert plan.operations[2].epilogue.stages == (SkipAdd(2, True, False),)
    assert plan.operations[2].operands[0] == small


def test_resize_with_another_reader_is_executed(w, conv):
    small = w.conv(w.requantize(conv, 4), w.weight(4, 4, 2), strides=[2, 2])
    large = w.upsample(small, 2)
    w.output(w.skip_add(large, conv, 4))
    w.output(large)
    assert kinds(plan_of(w)) == [Conv, Conv, Resize, Pointwise]


def test_pad_image_becomes_padding_values(w):
    padded = w.pad_image(w.image("image", 3, 6, 6), [1, 2, 3], 1)
    w.output(w.conv_odd(padded, w.weight(4, 3, 3, 8), 3, 3))
    plan = plan_of(w)
    (op,) = plan.operations
    assert (op.input, op.spec.pads, op.spec.pad_values, op.spec.odd) == (
        "image",
        (1, 1, 1, 1),
        (1, 2, 3),
        True,
    )
    assert (op.spec.height, op.spec.out_height) == (6, 6)


def test_pad_image_before_a_padding_convolution_stays(w):
    padded = w.pad_image(w.image("image", 3, 6, 6), [1, 2, 3], 1)
    w.output(w.conv(padded, w.weight(4, 3, 3), pads=[1, 1, 1, 1]))
    assert kinds(plan_of(w)) == [Pad, Conv]


def test_requantizations_of_a_pool_share_one_pass(w, conv):
    pooled = w.max_pool_s32(conv, 2, 2, 0)
    w.output(w.requantize(pooled, 4), dtype=TensorProto.UINT8)
    w.output(w.requantize(pooled, 4), dtype=TensorProto.UINT8)
    plan = plan_of(w)
    assert kinds(plan) == [Conv, MaxPool, Pointwise]
    assert len(plan.operations[2].outputs) == 2


def test_add_of_two_streams(w, conv):
    other = w.conv("image", w.weight(4, 8, 1))
    w.output(w._standard("Add", [conv, other]))
    plan = plan_of(w)
    assert kinds(plan) == [Conv, Conv]
    assert plan.operations[1].epilogue.stages == (SkipAdd(1, True, True),)


def test_add_of_a_value_to_itself(w, conv):
    w.output(w._standard("Add", [conv, conv]))
    plan = plan_of(w)
    assert kinds(plan) == [Conv, Pointwise]
    assert plan.operations[1].operands[0] == conv


def test_concat_of_casts(w, conv):
    u8 = w.requantize(conv, 4)
    w.output(w.concat(w.cast(u8), w.relu(conv)))
    assert kinds(plan_of(w)) == [Conv, Pointwise, Pointwise, Concat]


def test_zero_point_becomes_bias_and_padding(w):
    image = w.image("image", 2, 5, 5)
    weight = w.weight(4, 2, 3)
    zero = w.constant(np.array(7, np.uint8))
    w.output(w._standard("ConvInteger", [image, weight, zero], pads=[1, 1, 1, 1]))
    (op,) = plan_of(w).operations
    assert op.spec.pad_values == (7, 7)
    assert op.epilogue.stages == (AddBias(),)


def test_dead_nodes_are_dropped(w, conv):
    w.conv("image", w.weight(4, 8, 1))
    w.output(conv)
    assert len(plan_of(w).operations) == 1


def test_unknown_operation_is_named(w, conv):
    w.output(w._standard("Softmax", [conv]))
    with pytest.raises(
        UnsupportedModelError, match=r"node t1 is not of the integer dialect; got ai.onnx.Softmax"
    ):
        plan_of(w)


def test_float_tensor_is_refused(w, conv):
    w.output(w._standard("Cast", [conv], to=TensorProto.FLOAT), dtype=TensorProto.FLOAT)
    with pytest.raises(UnsupportedModelError, match=r"attribute to of Cast t1 .* got 1; valid: 6"):
        plan_of(w)


def test_identity_is_seen_through(w, conv):
    w.output(w.relu(w._standard("Identity", [conv])))
    assert plan_of(w).operations[0].epilogue.stages == (Relu(),)


def test_computed_weight_is_refused(w, conv):
    u8 = w.requantize(conv, 4)
    w.output(w._standard("ConvInteger", ["image", u8]))
    with pytest.raises(UnsupportedModelError, match="must be an initializer"):
        plan_of(w)


def test_float_upsampling_is_refused(w, conv):
    w.output(w.upsample(conv, 1.5))
    with pytest.raises(UnsupportedModelError, match="whole factors"):
        plan_of(w)


def test_dynamic_shape_is_refused(w):
    image = w.image("image", 3, 6, 6)
    w.output(w.conv(image, w.weight(4, 3, 3)))
    model = w.model()
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 3, "h", 6]))
    with pytest.raises(ShapeError, match=r"image has no static shape; got \[1, 3, 'h', 6\]"):
        read_graph(model)


def test_weights_that_do_not_fit_are_refused(w):
    image = w.image("image", 3, 6, 6)
    w.output(w.conv(image, w.weight(4, 8, 3)))
    with pytest.raises(ShapeError, match="does not fit its input"):
        plan_of(w)


def test_a_multiplier_beyond_31_bits_is_refused(w, conv):
    parameters = [
        w.per_channel(np.full(4, 1 << 31), np.int64),
        w.per_channel(np.zeros(4), np.int64),
        w.per_channel(np.full(4, 40), np.uint64),
    ]
    w.output(w._dialect("Requantize", [conv, *parameters], lo=0, hi=3, to=TensorProto.UINT8))
    with pytest.raises(RangeError, match=r"multiplier c of Requantize t1 .*got 2147483648"):
        plan_of(w)
