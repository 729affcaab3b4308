"""Functions of codes as tables, case by case: every entry against a float64 evaluation of the file."""

import numpy as np
import pytest
from float64_reference import Float64Network
from odd_graphs import codes
from onnx import TensorProto, helper
from qdq_graphs import QdqBuilder
from small_lowerings import chain, nodes_of, operators, producer, state_after

from aqd_deploy.integer.reference import ReferenceRunner
from aqd_deploy.passes.foreign_operations import Lookup
from aqd_deploy.passes.operations import BatchNormalization, Function, Quantize
from aqd_deploy.passes.pipeline import lower
from aqd_deploy.passes.slices import QuantizedFunction, RealFunction

EVERY_CODE = np.arange(256).reshape(1, 1, 16, 16)


def tabled(function, signed=False, step=0.05, zero=None, out=(0.02, 100), out_signed=False):
    """Codes → DQ → `function`(builder, x) → Q → out, of every code."""
    b = QdqBuilder(1, 16, 16, 1)
    kind = np.int8 if signed else np.uint8
    if signed:
        b.inputs = [helper.make_tensor_value_info("image", TensorProto.INT8, [1, 1, 16, 16])]
    zero = (7 if signed else 90) if zero is None else zero
    scale, point = b.constant("scale", np.float32(step)), b.constant("zero", kind(zero))
    x = b.node("DequantizeLinear", ["image", scale, point])
    y, scale, point = codes(b, function(b, x), *out, np.int8 if out_signed else np.uint8)
    b.output(b.node("DequantizeLinear", [y, scale, point]), "out")
    return b.build(), y


def assert_table(model, codes_name, signed=False):
    """All 256 codes are those of the float64 evaluation, and the program is one table."""
    image = (EVERY_CODE - 128 if signed else EVERY_CODE).astype(np.int8 if signed else np.uint8)
    result = lower(model)
    assert operators(result.model) == ["Lookup"]
    got = ReferenceRunner(result.model, threads=1).run({"image": image})["out"]
    wanted = Float64Network(model).run({"image": image})[codes_name]
    assert got.dtype == wanted.dtype and np.array_equal(got, wanted)


def number(b, value):
    return b.constant("number", np.float32(value))


def apply(op, **attributes):
    return lambda b, x: b.node(op, [x], **attributes)


def silu(b, x):
    return b.node("Mul", [x, b.node("Sigmoid", [x])])


def silu_of_two_tables(b, x):
    y, scale, zero = codes(b, b.node("Sigmoid", [x]), 1 / 256, 0)
    return b.node("Mul", [x, b.node("DequantizeLinear", [y, scale, zero])])


def gelu_by_erf(b, x):
    y = b.node("Erf", [b.node("Div", [x, number(b, 1.4142135)])])
    return b.node("Mul", [b.node("Mul", [x, b.node("Add", [y, number(b, 1)])]), number(b, 0.5)])


FUNCTIONS = {
    **{name: apply(name) for name in ("Sigmoid", "Tanh", "HardSwish", "Exp", "Abs", "Neg", "Erf", "Mish",
                                      "Softplus", "Softsign", "Relu", "Floor", "Ceil", "Round", "Selu")},
    "LeakyRelu": apply("LeakyRelu", alpha=0.1),
    "LeakyRelu by default": apply("LeakyRelu"),
    "Elu": apply("Elu", alpha=0.7),
    "Celu": apply("Celu", alpha=0.7),
    "ThresholdedRelu": apply("ThresholdedRelu", alpha=0.3),
    "HardSigmoid": apply("HardSigmoid", alpha=0.3, beta=0.4),
    "Gelu": apply("Gelu"),
    "Gelu by tanh": apply("Gelu", approximate="tanh"),
    "Gelu by Erf": gelu_by_erf,
    "PRelu": lambda b, x: b.node("PRelu", [x, number(b, 0.25)]),
    "Clip": lambda b, x: b.node("Clip", [x, number(b, -0.3), number(b, 1.1)]),
    "Div": lambda b, x: b.node("Div", [x, number(b, 3)]),
    "Div of a constant": lambda b, x: b.node("Div", [number(b, 3), b.node("Exp", [x])], b.shape[x]),
    "Add": lambda b, x: b.node("Add", [x, number(b, 0.37)]),
    "Sub": lambda b, x: b.node("Sub", [number(b, 0.37), x], b.shape[x]),
    "Mul by a negative number": lambda b, x: b.node("Mul", [x, number(b, -0.7)]),
    "SiLU": silu,
    "a square": lambda b, x: b.node("Mul", [x, x]),
    "x + tanh x": lambda b, x: b.node("Add", [x, b.node("Tanh", [x])]),
    "Sqrt": lambda b, x: b.node("Sqrt", [b.relu(x)]),
    "Log": lambda b, x: b.node("Log", [b.node("Add", [b.node("Abs", [x]), number(b, 1)])]),
    "another step": lambda b, x: x,
}  # fmt: skip


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_case_1_a_function_is_a_table(name, signed):
    model, codes_name = tabled(FUNCTIONS[name], signed, out_signed=not signed)
    assert_table(model, codes_name, signed)


def test_case_1_ties_are_even():
    """Codes times ½: every second quotient is a tie."""
    model, codes_name = tabled(lambda b, x: b.node("Mul", [x, number(b, 0.5)]), step=1, zero=0, out=(1, 0))
    assert_table(model, codes_name)


def test_case_2_a_table_of_a_table_is_one():
    model, codes_name = tabled(silu_of_two_tables)
    assert_table(model, codes_name)


def test_case_3_what_changes_nothing_is_left_out():
    def function(b, x):
        y, scale, zero = codes(b, x, 0.05, 90)
        return b.node("Sigmoid", [b.node("DequantizeLinear", [y, scale, zero])])

    state = state_after("tabulate", tabled(function)[0])
    assert len(nodes_of(state, Lookup)) == 1 and nodes_of(state, Quantize) == []
    assert any("as they are" in line for line in state.results[-1].changed)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (apply("Sqrt"), "of the code 0 of image has no finite value"),
        (lambda b, x: b.node("Div", [x, x]), "of the code 90 of image has no finite value"),
    ],
)
def test_what_is_left_alone_has_a_reason(function, reason):
    state = state_after("tabulate", tabled(function)[0])
    assert nodes_of(state, Lookup) == []
    assert any(reason in line for line in state.results[-1].left_alone)


def test_a_constant_a_channel_and_two_tensors_are_left_alone():
    b = QdqBuilder(2)
    x = b.image([0, 0, 0])
    y = b.quantize(b.node("Add", [x, b.constant("k", np.ones((1, 3, 1, 1), np.float32))]), 8, 1.0)
    b.output(b.quantize(b.node("Mul", [x, y]), 8, 9.0), "out")
    state = state_after("tabulate", b.build())
    told = " ".join(state.results[-1].left_alone)
    assert "has a constant a channel" in told and "isn't made of functions of each element" in told


@pytest.mark.parametrize("function", [silu, apply("HardSwish"), apply("LeakyRelu", alpha=0.1)])
def test_case_4_functions_of_accumulators_become_one_quantizer(function):
    state = state_after("tabulate", chain(lambda b, x: b.quantize(function(b, x), 8, 0.05)))
    (node,) = nodes_of(state, QuantizedFunction)
    assert nodes_of(state, Quantize) == [] and isinstance(producer(state, node).op, BatchNormalization)


@pytest.mark.parametrize("quantized", [False, True])
def test_case_5_functions_that_go_on_without_a_quantizer_are_one(quantized):
    """Of codes or accumulators. A bias a channel is none of its functions."""

    def body(b, x):
        x = b.quantize(x, 8, 0.05) if quantized else x
        y = b.node("Mul", [x, b.node("Sigmoid", [b.scale(x, 1.7)])])
        return b.quantize(b.batch_norm(y, "positive"), 8, 0.05)

    state = state_after("tabulate", chain(body))
    (node,) = nodes_of(state, RealFunction)
    assert len(node.op.found.nodes) == 3 + quantized and nodes_of(state, Function) == []


def test_case_5_a_leaky_relu_stays():
    def body(b, x):
        return b.quantize(b.batch_norm(b.node("LeakyRelu", [x]), "positive"), 8, 0.05)

    state = state_after("tabulate", chain(body))
    assert nodes_of(state, RealFunction) == [] and len(nodes_of(state, Function)) == 1


def test_case_4_sums_and_products_with_constants_stay():
    def body(b, x):
        return b.quantize(b.node("Add", [b.scale(x, 2.0), number(b, 1)]), 8, 0.05)

    state = state_after("tabulate", chain(body))
    assert len(nodes_of(state, Quantize)) == 1 and nodes_of(state, QuantizedFunction) == []
    assert any("moves into its constants" in line for line in state.results[-1].left_alone)
