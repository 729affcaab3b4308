"""Constants that nodes compute."""

import numpy as np
from onnx import helper, numpy_helper
from small_files import FileBuilder, constants_of, ops


def test_case_1_a_scale_that_is_computed():
    b = FileBuilder()
    b.constant("range", np.float32(25.5))
    b.constant("steps", np.float32(255))
    b.node("Div", ["range", "steps"], "scale")
    names = ["scale", b.constant("zero", np.uint8(120))]
    y = b.conv(b.node("DequantizeLinear", [b.node("QuantizeLinear", ["image", *names]), *names]))
    state = b.rewritten(y)
    assert constants_of(state.model)["scale"] == np.float32(25.5) / np.float32(255)


def test_case_1_what_says_the_meaning_of_codes_stays():
    b = FileBuilder()
    weights = b.constant("w", b.rng.integers(-99, 99, (4, 4, 1, 1)).astype(np.int8))
    bounds = [b.constant(f"bound{v}", np.int8(v)) for v in (-7, 7)]
    w = b.node("DequantizeLinear", [b.node("Clip", [weights, *bounds]), b.constant("ws", np.float32(0.1))])
    state = b.rewritten(b.node("Conv", [b.quantize("image"), w]))
    assert ops(state.model) == ["Clip", "Conv"]


def test_case_2_shapes_are_known():
    b = FileBuilder()
    x = b.conv(b.quantize("image"))
    b.constant("minus", np.array([-1]))
    b.constant("first", np.array([0]))
    batch = b.node("Gather", [b.node("Shape", [x]), "first"])
    target = b.node("Concat", [batch, "minus"], axis=0)
    y = b.node("Reshape", [b.quantize(x, 0.5), target])
    assert ops(b.rewritten(b.quantize(y, 0.5)).model) == ["Conv"]


def test_case_3_constant_nodes():
    b = FileBuilder()
    value = numpy_helper.from_array(np.float32(0.1), "value")
    b.nodes.append(helper.make_node("Constant", [], ["scale"], value=value))
    names = ["scale", b.constant("zero", np.uint8(120))]
    y = b.conv(b.node("DequantizeLinear", [b.node("QuantizeLinear", ["image", *names]), *names]))
    assert "scale" in constants_of(b.rewritten(y).model)


def test_what_would_be_too_large_is_not_computed():
    """The rewrite leaves it; a tensor of that size is refused later."""
    b = FileBuilder()
    huge = b.node("ConstantOfShape", [b.constant("shape", np.array([1, 4, 1 << 20, 1 << 20]))])
    y = b.node("Add", [b.conv(b.quantize("image")), b.node("ReduceMax", [huge], keepdims=1)])
    model = b.model(y)
    from canonical_meaning import canonical

    assert "ConstantOfShape" in ops(canonical(model).model)
