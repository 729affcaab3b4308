"""Networks whose activations are quantized anew for each image."""

import numpy as np
import onnxruntime
import pytest
from onnx import helper
from small_files import FileBuilder, constants_of, ops

from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.passes.canonical.draft import Draft
from aqd_deploy.passes.canonical.dynamic import undo_dynamic_quantization


def undone(b, *outputs):
    """The file after the rewrite; its outputs lie within the activations' rounding of the file's own."""
    model, images = b.model(*outputs), b.images()
    draft = Draft(b.model(*outputs))
    undo_dynamic_quantization(draft)
    again = draft.write()
    values = [_outputs(each, images) for each in (model, again)]
    for was, now in zip(*values, strict=True):
        # 8 bits of an activation are 1/255 of its range; sums of several weights make it 2 % of theirs.
        assert np.abs(was - now).max() < 0.02 * np.ptp(was)
    return again


def _outputs(model, images):
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, images)


def dynamic(b, x):
    """Codes, scale and zero point of a tensor."""
    names = [f"{name}{len(b.nodes)}" for name in "qsz"]
    b.node("DynamicQuantizeLinear", [x], *names)
    return names


def product(b, op, left, right, swapped=False, **attributes):
    """The reals of a product of two triples, as onnxruntime writes it."""
    made = b.node(op, [left[0], right[0], left[2], right[2]], **attributes)
    scale = b.node("Mul", [left[1], right[1]])
    operands = [b.node("Cast", [made], to=1), scale]
    return b.node("Mul", operands[::-1] if swapped else operands)


def weights(b, shape, scale_shape=()):
    """Codes so small that onnxruntime saturates none of their products on any CPU."""
    count = len(b.constants)
    values = b.rng.integers(-60, 61, shape).astype(np.int8)
    scale = b.rng.uniform(0.005, 0.02, scale_shape).astype(np.float32)
    named = ((f"w{count}", values), (f"ws{count}", scale), (f"wz{count}", np.int8(3)))
    return [b.constant(name, array) for name, array in named]


def biased(b, x, out):
    bias = b.constant(f"b{len(b.nodes)}", b.rng.normal(0, 1, (1, out, 1, 1)).astype(np.float32))
    return b.node("Add", [bias, x])


def test_case_1_a_convolution_with_its_bias():
    b = FileBuilder()
    triple, told = weights(b, (5, 4, 3, 3)), {"pads": [1, 1, 1, 1], "strides": [2, 2]}
    y = biased(b, product(b, "ConvInteger", dynamic(b, "image"), triple, **told), 5)
    model = undone(b, y)
    assert ops(model) == ["Conv"] and len(model.graph.node[0].input) == 3
    given = constants_of(b.model(y))
    codes, scale, zero = (given[name].astype(np.float64) for name in triple)
    found = constants_of(model)[model.graph.node[0].input[1]]
    np.testing.assert_array_equal(found, ((codes - zero) * scale).astype(np.float32))
    attributes = {each.name: helper.get_attribute_value(each) for each in model.graph.node[0].attribute}
    assert attributes == told


def test_case_1_a_scale_for_each_channel_and_the_other_order():
    b = FileBuilder()
    y = product(b, "ConvInteger", dynamic(b, "image"), weights(b, (6, 4, 1, 1), (6, 1, 1)), swapped=True)
    assert ops(undone(b, b.node("Relu", [y]))) == ["Conv", "Relu"]


def test_case_1_two_layers_that_read_one_tensor():
    b = FileBuilder()
    triple = dynamic(b, "image")
    parts = [biased(b, product(b, "ConvInteger", triple, weights(b, (4, 4, 1, 1))), 4) for _ in range(2)]
    assert ops(undone(b, *parts)) == ["Conv", "Conv"]


def test_case_1_a_matrix():
    b = FileBuilder(shape=(1, 3, 8))
    y = product(b, "MatMulInteger", dynamic(b, "image"), weights(b, (8, 5), (5,)))
    assert ops(undone(b, y)) == ["MatMul"]


def test_case_1_something_else_that_is_added_stays():
    b = FileBuilder()
    y = product(b, "ConvInteger", dynamic(b, "image"), weights(b, (4, 4, 1, 1)))
    assert ops(undone(b, b.node("Add", [y, "image"]))) == ["Conv", "Add"]


def test_case_2_two_tensors():
    b = FileBuilder(shape=(1, 2, 5, 5))
    other = b.node("Relu", ["image"])
    y = product(b, "MatMulInteger", dynamic(b, "image"), dynamic(b, other))
    model = undone(b, y)
    assert ops(model) == ["Relu", "MatMul"] and list(model.graph.node[1].input) == ["image", other]


@pytest.mark.parametrize("of", ["a scale of another tensor", "no scale", "scales along the width"])
def test_case_3_products_that_stand_otherwise(of):
    b = FileBuilder()
    left, right = dynamic(b, "image"), weights(b, (4, 4, 1, 1))
    other = dynamic(b, b.node("Relu", ["image"]))
    if of == "no scale":
        y = b.node("Cast", [b.node("ConvInteger", [left[0], right[0], left[2]])], to=1)
    elif of == "scales along the width":
        y = product(b, "ConvInteger", left, weights(b, (6, 4, 1, 1), (6,)))
    else:
        y = product(b, "ConvInteger", [left[0], other[1], left[2]], right)
    draft = Draft(b.model(y))
    with pytest.raises(UnsupportedModelError) as caught:
        undo_dynamic_quantization(draft)
    assert "cannot be undone: " in str(caught.value) and "ConvInteger" in str(caught.value)
    assert "aqd-deploy quantize" in caught.value.next_command
