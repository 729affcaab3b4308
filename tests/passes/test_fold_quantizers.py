"""Quantizers by their meaning, case by case."""

from fractions import Fraction

import numpy as np
import pytest
from qdq_graphs import QdqBuilder
from small_lowerings import chain, nodes_of, state_after, state_before

from aqd_deploy.errors import ScaleError
from aqd_deploy.passes.contract import PassError
from aqd_deploy.passes.fold_quantizers import FoldQuantizers
from aqd_deploy.passes.graph import Node
from aqd_deploy.passes.operations import Quantize, QuantizeLinear, Scale


def folded(model):
    return state_after("fold_quantizers", model)


def test_case_1_weights_are_integers_with_a_scale_an_output_channel():
    b = QdqBuilder(1)
    b.output(b.conv(b.image(), 4, 4, per_channel=True), "y")
    (weights,) = folded(b.build()).graph.quantized.values()
    assert weights.values.dtype == np.int64 and (weights.values % 2 == 1).all()
    assert weights.name.startswith("weight") and (len(weights.scales), weights.axis) == (4, 0)


def test_case_1_a_bias_of_int32_is_exact_at_any_scale():
    b = QdqBuilder(1)
    x, w = b.image([0, 0, 0]), b.weights(4, 3, (1, 1), 4)
    bias = b.constant("bias", np.array([3, -70000, 5, 0], np.int32))
    scales = b.constant("scale", np.array([0.5, 0.25, 3, 1], np.float32))
    b.output(b.node("Conv", [x, w, b.node("DequantizeLinear", [bias, scales], axis=0)], (4, 8, 8)), "y")
    state = folded(b.build())
    (quantized,) = (each for each in state.graph.quantized.values() if each.name == bias)
    assert quantized.reals() == [Fraction(3, 2), -17500, 15, 0]


def test_case_1_zero_points_of_weights_are_taken_off():
    b = QdqBuilder(1, channels=1)
    w = b.constant("w", np.array([0, 200, 255, 7], np.uint8).reshape(4, 1, 1, 1))
    zero = b.constant("zero", np.array([0, 200, 9, 7], np.uint8))
    w = b.node("DequantizeLinear", [w, b.constant("scales", np.full(4, 0.5, np.float32)), zero], axis=0)
    b.output(b.node("Conv", [b.image([0]), w], (4, 8, 8)), "y")
    (quantized,) = folded(b.build()).graph.quantized.values()
    assert quantized.values.ravel().tolist() == [0, 0, 246, 0]


def test_case_1_float_weights_are_quantized_as_onnxruntime_would():
    b = QdqBuilder(1)
    scale, zero = b.constant("scale", np.float32(0.25)), b.constant("zero", np.int8(0))
    values = np.array([0.125, 0.375, -0.26, 900], np.float32).reshape(1, 4, 1, 1)
    q = b.node("QuantizeLinear", [b.constant("weight", values), scale, zero])
    b.shape["image"] = (4, 8, 8)
    b.inputs[0].type.tensor_type.shape.dim[1].dim_value = 4
    x = b.image([0, 0, 0, 0])
    b.output(b.conv(x, 1, 8, kernel=1, weights=b.node("DequantizeLinear", [q, scale, zero])), "y")
    (weights,) = folded(b.build()).graph.quantized.values()
    assert weights.values.ravel().tolist() == [0, 2, -1, 127]


@pytest.mark.parametrize("bits", [4, 8])
def test_case_2_quantize_with_and_without_a_clip(bits):
    state = folded(chain(lambda b, x: b.quantize(x, bits, 0.25)))
    (quantize,) = nodes_of(state, Quantize)
    quantizer = quantize.op.quantizer
    assert (quantizer.step, quantizer.lo, quantizer.hi) == (Fraction(1, 4), 0, 2**bits - 1)
    assert quantize.op.dtype == "uint8"


def test_case_2_a_clip_of_a_real_tensor_is_left_alone_with_the_reason():
    def clip(b, x):
        return b.node("Clip", [x, b.constant("low", np.float32(0)), b.constant("high", np.float32(6))])

    state = folded(chain(clip, lambda b, x: b.quantize(x, 8, 0.25)))
    assert any(
        "(Clip): no quantizer is right in front of it" in line for line in state.results[-1].left_alone
    )


def test_case_3_the_image_has_a_zero_point_a_channel():
    state = folded(chain())
    (scale,) = nodes_of(state, Scale)
    assert [form.b0 / form.a for form in scale.op.forms] == [-104, -116, -124]


def test_a_step_must_be_positive():
    b = QdqBuilder(1)
    b.output(b.quantize(b.conv(b.image(), 4, 8), 8, -1.0), "y")
    with pytest.raises(ScaleError, match="quantization step"):
        folded(b.build())


def test_a_quantizer_that_is_left_breaks_the_promise():
    state = state_before("fold_quantizers", chain())
    FoldQuantizers()(state)
    state.graph.nodes.append(Node(QuantizeLinear(1, 0), ["out"], "y", "q_1"))
    with pytest.raises(PassError, match="QuantizeLinear q_1 is left"):
        FoldQuantizers().ensures(state)
