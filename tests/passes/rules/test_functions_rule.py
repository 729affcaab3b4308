"""Quantized functions of accumulators: codes of all integers of small ranges, and the deviations."""

from fractions import Fraction

import numpy as np
import pytest
from island_agreement import assert_islands_agree
from odd_graphs import codes, quantize
from onnx import TensorProto, helper, numpy_helper
from qdq_graphs import QdqBuilder
from small_lowerings import chain, nodes_of, operators, state_after

from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.integer.reference import ReferenceRunner
from aqd_deploy.passes.functions import FUNCTIONS
from aqd_deploy.passes.integer_operations import SharedThreshold
from aqd_deploy.passes.pipeline import lower


def activation(b, x, name):
    if name == "SiLU":
        return b.node("Mul", [x, b.node("Sigmoid", [x])])
    return b.node(name, [x])


def few_codes(b, x, step, zero, top):
    """Quantized to codes up to `top`."""
    found, scale, point = codes(b, x, step, zero)
    bounds = [b.constant(f"at_{each}", np.uint8(each)) for each in (0, top)]
    return b.node("DequantizeLinear", [b.node("Clip", [found, *bounds]), scale, point])


def accumulators(name, scales, bias, out=(0.011, 60), top=255):
    """All int8 codes → 1x1 depthwise conv with int8 weights and one scale a channel → function → codes."""
    b = QdqBuilder(1, 16, 16, 3)
    b.inputs = [helper.make_tensor_value_info("image", TensorProto.INT8, [1, 3, 16, 16])]
    x = b.node("DequantizeLinear", ["image", b.constant("s", np.float32(0.031)), b.constant("z", np.int8(9))])
    weight = b.constant("weight", np.array([83, -51, 127], np.int8).reshape(3, 1, 1, 1))
    step = b.constant("step_w", np.array(scales, np.float32))
    w = b.node("DequantizeLinear", [weight, step], axis=0)
    y = b.node("Conv", [x, w, b.constant("bias", np.array(bias, np.float32))], (3, 16, 16), group=3)
    y = activation(b, y, name)
    b.output(quantize(b, y, *out) if top == 255 else few_codes(b, y, *out, top), "out")
    return b.build()


def every_code():
    codes = np.arange(-128, 128).reshape(16, 16).astype(np.int8)
    return np.broadcast_to(codes, (1, 3, 16, 16)).copy()


def exact_codes(name, scales, bias, out):
    """By the exact functions, code by code."""
    found = []
    step = Fraction(float(np.float32(out[0])))
    for weight, scale, b in zip((83, -51, 127), scales, bias, strict=True):
        alpha = Fraction(float(np.float32(scale))) * Fraction(float(np.float32(0.031)))
        row = []
        for code in range(-128, 128):
            x = (code - 9) * weight * alpha + Fraction(float(np.float32(b)))
            if name == "SiLU":
                y = x * FUNCTIONS["Sigmoid"].apply(x, ())
            else:
                values = FUNCTIONS[name].attributes.values()
                y = FUNCTIONS[name].apply(x, tuple(Fraction(float(np.float32(v))) for v in values))
            row.append(min(max(round(y / step) + out[1], 0), 255))
        found.append(row)
    return np.array(found).reshape(1, 3, 16, 16)


@pytest.mark.parametrize(
    "name", ["SiLU", "HardSwish", "Mish", "Gelu", "LeakyRelu", "Tanh", "Elu", "Abs", "Floor", "Softplus"]
)
@pytest.mark.parametrize(
    ("scales", "bias"), [([0.004] * 3, [0.0] * 3), ([0.004, 0.0113, 0.0007], [0.3, -1.7, 0.05])]
)
def test_every_integer_has_its_code(name, scales, bias):
    """Deviations on the shared axis are counted over all integers; here only some of them occur."""
    model = accumulators(name, scales, bias)
    result = lower(model)
    got = ReferenceRunner(result.model, threads=1).run({"image": every_code()})["out"]
    (entry,) = result.report["requantizations"]
    different = (got != exact_codes(name, scales, bias, (0.011, 60))).sum(axis=(0, 2, 3))
    assert entry["form"] == "thresholds" or name == "LeakyRelu"
    assert different.sum() == 0 or entry["deviations"] > 0
    assert entry["proven"] == 3 or entry["most_deviations"] > 0


@pytest.mark.parametrize("scales", [[0.004] * 3, [0.004, 0.0113, 0.0007]])
def test_a_leaky_relu_is_the_larger_of_two_multiply_shifts(scales):
    """Every integer of every channel, the weight of one being negative."""
    bias = [0.3, -1.7, 0.05]
    result = lower(accumulators("LeakyRelu", scales, bias))
    got = ReferenceRunner(result.model, threads=1).run({"image": every_code()})["out"]
    (entry,) = result.report["requantizations"]
    assert (entry["form"], entry["proven"]) == ("two multiply-shifts", 3)
    assert "RequantizeMax" in operators(result.model)
    np.testing.assert_array_equal(got, exact_codes("LeakyRelu", scales, bias, (0.011, 60)))


@pytest.mark.parametrize("top", [3, 7, 15])
@pytest.mark.parametrize("name", ["LeakyRelu", "Tanh", "Softplus", "Elu"])
def test_few_codes_that_only_rise_have_exact_thresholds_of_every_channel(name, top):
    scales, bias, out = [0.004, 0.0113, 0.0007], [0.3, -1.7, 0.05], (0.11, 1)
    result = lower(accumulators(name, scales, bias, out, top))
    assert {"Threshold"} == {"Threshold", "Steps", "MultiplyShift"} & set(operators(result.model))
    got = ReferenceRunner(result.model, threads=1).run({"image": every_code()})["out"]
    np.testing.assert_array_equal(got, np.minimum(exact_codes(name, scales, bias, out), top))
    assert result.report["proven"] == result.report["requantized_channels"] == 3


def test_few_codes_behind_channels_that_are_turned_around_or_constant():
    """Batch norms with negative, vanishing and zero γ."""

    def body(b, x):
        y = b.batch_norm(b.conv(b.quantize(x, 4), 24, 4), gamma="hard")
        return few_codes(b, activation(b, y, "LeakyRelu"), 0.3, 1, 15)

    result = assert_islands_agree(chain(body))
    node = [node for node in result.model.graph.node if node.op_type == "Threshold"][-1]
    signs = next(t for t in result.model.graph.initializer if t.name == node.input[1])
    assert set(numpy_helper.to_array(signs).ravel().tolist()) == {-1, 1}
    assert result.report["proven"] == result.report["requantized_channels"]


def test_few_codes_that_rise_and_fall_have_one_list():
    result = lower(accumulators("SiLU", [0.004, 0.0113, 0.0007], [0.3, -1.7, 0.05], (0.11, 3), 15))
    assert "Steps" in operators(result.model) and "Threshold" not in operators(result.model)


def test_deviations_of_a_shared_axis_are_those_of_all_integers():
    """The count beside a search over every accumulator of a channel."""
    scales, bias = [0.004, 0.0113, 0.0007], [0.3, -1.7, 0.05]
    state = state_after("move_scales", accumulators("SiLU", scales, bias))
    (node,) = nodes_of(state, SharedThreshold)
    (axis,) = [n for n in state.graph.nodes if n.output == node.inputs[0]]
    low, high = (
        v.tolist() for v in (state.graph.ranges[axis.inputs[0]].lo, state.graph.ranges[axis.inputs[0]].hi)
    )
    step = Fraction(float(np.float32(0.011)))
    for channel in range(3):
        alpha = Fraction(float(np.float32(scales[channel]))) * Fraction(float(np.float32(0.031)))
        wrong = 0
        for eta in range(low[channel], high[channel] + 1, 7):
            x = eta * alpha + Fraction(float(np.float32(bias[channel])))
            code = min(max(round(x * FUNCTIONS["Sigmoid"].apply(x, ()) / step) + 60, 0), 255)
            reached = axis.op.constants[channel](eta)
            wrong += node.op.codes[np.searchsorted(node.op.thresholds, reached, side="right")] != code
        assert wrong <= node.op.deviations[channel]


def test_a_function_of_a_batch_norm_and_of_a_sum():
    def body(b, x):
        y = quantize(b, activation(b, x, "SiLU"), 0.02, 30)
        z = b.node("Add", [b.conv(y, 4, 7, odd=False), x])
        return quantize(b, activation(b, z, "HardSwish"), 0.03, 40)

    assert_islands_agree(chain(body), exact=False)


def test_a_function_of_one_code():
    def body(b, x):
        return b.conv(quantize(b, b.node("Sigmoid", [x]), 9.0, 7), 4, 4)

    report = assert_islands_agree(chain(body)).report
    assert report["proven"] == report["requantized_channels"]


def test_a_stretch_between_two_codes_is_refused():
    """A function that ends at exactly half a step."""

    def body(b, x):
        return quantize(b, b.node("HardSigmoid", [x]), 2.0, 0)

    with pytest.raises(UnsupportedModelError, match="can't be told from thresholds"):
        lower(chain(body))
