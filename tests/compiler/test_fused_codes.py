"""What of other networks than AQD's joins a convolution: sums of codes, tables, products, clips."""

import numpy as np
import pytest
from small_models import INT8, UINT8, ModelWriter

from aqd_deploy.compiler.fusion import fuse
from aqd_deploy.compiler.plan import Conv, Plan, Pointwise, Resize, SumPool
from aqd_deploy.integer.reader import read_graph
from aqd_deploy.kernels.contract.spec import (
    Bound,
    Lookup,
    Multiply,
    Requantize,
    SkipAdd,
    SkipAddCodes,
    StoreCodes,
    StoreRequantize,
    StoreStream,
    Threshold,
)


def plan_of(writer: ModelWriter) -> Plan:
    return fuse(read_graph(writer.model()))


@pytest.fixture
def w():
    return ModelWriter()


@pytest.fixture
def image(w):
    """8 channels, 6x6."""
    return w.image("image", 8, 6, 6)


def quantized_conv(w, x, kernel=1, **kwargs):
    pad = kernel // 2
    return w.requantize(w.conv(x, w.weight(8, 8, kernel), pads=[pad] * 4), 8, **kwargs)


def kinds(epilogue):
    return [type(stage) for stage in epilogue.stages]


def test_a_requantized_add_stays_in_its_convolution(w, image):
    """As in a residual block of MobileNetV2: the shortcut is read as codes."""
    branch = quantized_conv(w, quantized_conv(w, image))
    w.output(w.requantize(w.skip_add(w.cast(branch), w.cast(image), 8), 8), dtype=UINT8)
    first, second = plan_of(w).operations
    assert isinstance(second, Conv)
    assert kinds(second.epilogue) == [Requantize, SkipAddCodes]
    assert second.epilogue.stages[1].dtype == "uint8"
    assert [type(store) for store in second.epilogue.stores] == [StoreRequantize]
    assert second.added == ("image",)
    assert second.input == first.outputs[0]


def test_of_two_branches_one_is_stored_as_codes(w, image):
    left = quantized_conv(w, image, 3, lo=-128, hi=127, to=INT8)
    right = quantized_conv(w, image)
    w.output(w.requantize(w.skip_add(w.cast(left), w.cast(right), 8), 8), dtype=UINT8)
    plan = plan_of(w)
    assert all(isinstance(op, Conv) for op in plan.operations)
    one, two = plan.operations
    assert [type(store) for store in one.epilogue.stores] == [StoreRequantize]
    assert two.added == one.outputs
    assert {plan.tensors[name].dtype for op in plan.operations for name in op.outputs} == {"uint8"}


def test_a_cast_that_others_read_too_is_run_for_them_alone(w, image):
    codes = quantized_conv(w, image)
    wide = w.cast(codes)
    w.output(w.skip_add(w.conv(codes, w.weight(8, 8, 1)), wide, 8))
    w.output(w.concat(wide, wide))
    plan = plan_of(w)
    (cast,) = (op for op in plan.operations if isinstance(op, Pointwise))
    assert cast.epilogue.stages == () and cast.epilogue.stores == (StoreStream(),)
    (adder,) = (op for op in plan.operations if isinstance(op, Conv) and op.added)
    assert adder.added == (codes,)


def test_a_quantizer_before_a_concat_of_streams_is_a_store(w, image):
    """A cast is no reason to keep codes from being stored as such."""
    codes = quantized_conv(w, image)
    w.output(w.concat(w.cast(codes), w.conv(image, w.weight(4, 8, 1))))
    stores = [type(op.epilogue.stores[0]) for op in plan_of(w).operations if isinstance(op, Conv)]
    assert stores == [StoreRequantize, StoreStream]


def test_upsampled_codes_are_read_where_they_are(w, image):
    small = w.max_pool(image, 2, 2, 0)
    total = w.skip_add(w.cast(w.upsample(small, 2)), w.conv(image, w.weight(8, 8, 1)), 8)
    w.output(w.requantize(total, 8), dtype=UINT8)
    plan = plan_of(w)
    assert not [op for op in plan.operations if isinstance(op, Resize)]
    (stage,) = next(op for op in plan.operations if isinstance(op, Conv)).epilogue.stages
    assert isinstance(stage, SkipAddCodes) and stage.upsample == 2


def test_a_table_behind_a_quantizer_ends_the_group(w, image):
    w.output(w.lookup(quantized_conv(w, image), INT8), dtype=INT8)
    (op,) = plan_of(w).operations
    assert kinds(op.epilogue) == [Requantize, Lookup]
    assert op.epilogue.stores == (StoreCodes("int8"),)
    assert op.operands[-1].shape == (64,)


def test_thresholds_join_as_quantizers_do(w, image):
    stream = w.conv(image, w.weight(8, 8, 1))
    w.output(w.lookup(w.threshold(stream, 8)), dtype=UINT8)
    (op,) = plan_of(w).operations
    assert kinds(op.epilogue) == [Threshold, Lookup]


def test_a_gated_product_is_one_pass(w, image):
    """x·f(x) reads x once and its own value again; the table never is a tensor."""
    codes = quantized_conv(w, image)
    product = w.multiply(codes, w.lookup(codes), 3, 4)
    w.output(w.requantize(product, 8), dtype=UINT8)
    conv, pointwise = plan_of(w).operations
    assert conv.epilogue.stages == ()
    assert kinds(pointwise.epilogue) == [Lookup, Multiply]
    assert pointwise.epilogue.stages[1] == Multiply(4, 3, "uint8")
    assert pointwise.input == codes and pointwise.added == (codes,)


def test_squeeze_and_excite(w, image):
    codes = quantized_conv(w, image)
    gate = w.lookup(w.requantize(w.sum_pool(codes, (6, 6)), 8))
    w.output(w.requantize(w.multiply(codes, gate, 1, 2), 8), dtype=UINT8)
    conv, pool, table, product = plan_of(w).operations
    assert isinstance(pool, SumPool)
    assert kinds(table.epilogue) == [Requantize, Lookup]
    assert product.epilogue.stages == (Multiply(1, 2, "uint8", one_pixel=True),)
    assert product.input == conv.outputs[0] and product.added == table.outputs


def test_clips_at_other_values_than_0_are_stages(w, image):
    w.output(w.clip(w.conv(image, w.weight(8, 8, 1)), 8))
    (op,) = plan_of(w).operations
    assert op.epilogue.stages == (Bound(upper=False), Bound(upper=True))
    everywhere = w._standard("Max", [w.conv(image, w.weight(8, 8, 1)), w.constant(np.array(-9, np.int32))])
    w.output(everywhere)
    assert plan_of(w).operations[1].operands[0].tolist() == [-9] * 8


@pytest.mark.parametrize("largest, parts", [(127, 1), (254, 2), (255, 3)])
def test_wide_weights_are_sums_of_narrow_ones(w, image, largest, parts):
    weight = np.zeros((2, 8, 1, 1), np.int8)
    weight[0, 0] = min(largest - 1, 127)
    offset = np.array([largest - int(weight[0, 0, 0, 0]), 0])
    zero = w.constant(np.array(0, np.uint8))
    inputs = [image, w.constant(weight), w.constant(np.ones((1, 8, 1, 1), np.int8))]
    geometry = {"strides": [1, 1], "pads": [0] * 4, "dilations": [1, 1], "group": 1}
    y = w._dialect("ConvOffset", [*inputs, w.per_channel(offset, np.int32), zero], **geometry)
    w.output(w.relu(y))
    plan = plan_of(w)
    assert len(plan.operations) == parts
    total = sum(plan.weights[op.weight].astype(int) for op in plan.operations)
    assert (total == weight + offset.reshape(-1, 1, 1, 1)).all()
    assert [type(stage) for op in plan.operations[1:] for stage in op.epilogue.stages][:1] == (
        [SkipAdd] if parts > 1 else []
    )
