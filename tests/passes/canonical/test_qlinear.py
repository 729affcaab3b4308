"""QOperator nodes, one kind at a time; test_canonical_files has whole networks."""

import numpy as np
import pytest
from canonical_meaning import canonical
from small_files import FileBuilder, ops

from aqd_deploy.errors import UnsupportedModelError

MICROSOFT = "com.microsoft"


class QOperators(FileBuilder):
    """Codes of the image, and triples of codes, scale and zero point."""

    def codes(self, step=0.1):
        names = self.scale(step, np.uint8(110))
        source = self.node("Relu", [self.real(*self.first)]) if self.nodes else "image"
        codes = self.node("QuantizeLinear", [source, *names])
        self.first = (codes, names) if source == "image" else self.first
        return [codes, *names]

    def real(self, q, ends):
        return self.node("DequantizeLinear", [q, *ends])


def tensor(b, base, values, step):
    name = b.constant(base, values)
    return [
        name,
        b.constant(f"{base}_step", np.asarray(step, np.float32)),
        b.constant(f"{base}_zero", np.int8(0)),
    ]


@pytest.mark.parametrize("per_channel", [False, True])
def test_case_1_a_convolution_with_a_bias(per_channel):
    b = QOperators()
    step = b.rng.uniform(0.01, 0.02, 8) if per_channel else 0.015
    weights = tensor(b, "w", b.rng.integers(-127, 128, (8, 4, 3, 3)).astype(np.int8), step)
    if per_channel:
        weights[2] = b.constant("w_zeros", np.zeros(8, np.int8))
    bias = b.constant("bias", b.rng.integers(-900, 900, 8).astype(np.int32))
    ends = b.scale(0.2, np.uint8(99))
    q = b.node("QLinearConv", [*b.codes(), *weights, *ends, bias], pads=[1, 1, 1, 1], strides=[2, 2])
    assert ops(b.rewritten(b.real(q, ends)).model) == ["Conv"]


@pytest.mark.parametrize("ends", [True, False])
def test_case_2_a_matrix_product_with_a_bias(ends):
    b = QOperators(shape=(1, 4))
    weights = tensor(b, "w", b.rng.integers(-127, 128, (6, 4)).astype(np.int8), 0.01)
    bias = b.constant("bias", b.rng.integers(-900, 900, 6).astype(np.int32))
    last = b.scale(0.2, np.uint8(99)) if ends else []
    y = b.node("QGemm", [*b.codes(), *weights, bias, *last], domain=MICROSOFT, transB=1, alpha=1.0)
    state = canonical_vector(b, b.real(y, last) if ends else y)
    assert ops(state.model) == ["Conv"]


def canonical_vector(b, output):
    """An image [1, C] cannot be lowered; its codes can be looked at as a map of one element a channel."""
    b.inputs[0].type.tensor_type.shape.dim.add().dim_value = 1
    b.inputs[0].type.tensor_type.shape.dim.add().dim_value = 1
    b.image = (1, 4, 1, 1)
    flat = b.node("Flatten", ["image"], "flat")
    b.nodes.insert(0, b.nodes.pop())
    for node in b.nodes[1:]:
        node.input[:] = [flat if name == "image" else name for name in node.input]
    return b.rewritten(output)


@pytest.mark.parametrize("op", ["QLinearAdd", "QLinearMul"])
def test_case_3_two_operands(op):
    b = QOperators()
    ends = b.scale(0.3, np.uint8(100))
    q = b.node(op, [*b.codes(), *b.codes(0.07), *ends], domain=MICROSOFT)
    assert ops(b.rewritten(b.real(q, ends)).model) == ["Relu", op.removeprefix("QLinear")]


def test_case_3_a_product_with_a_matrix():
    b = QOperators(shape=(1, 4))
    weights = tensor(b, "w", b.rng.integers(-127, 128, (4, 6)).astype(np.int8), 0.01)
    ends = b.scale(0.2, np.uint8(99))
    q = b.node("QLinearMatMul", [*b.codes(), *weights, *ends])
    assert ops(canonical_vector(b, b.real(q, ends)).model) == ["Conv"]


@pytest.mark.parametrize(
    ("op", "attributes", "made"),
    [
        ("QLinearSigmoid", {}, "Sigmoid"),
        ("QLinearLeakyRelu", {"alpha": 0.2}, "LeakyRelu"),
        ("QLinearGlobalAveragePool", {"channels_last": 0}, "AveragePool"),
        ("QLinearAveragePool", {"kernel_shape": [2, 2], "strides": [2, 2]}, "AveragePool"),
    ],
)
def test_case_4_one_operand(op, attributes, made):
    b = QOperators()
    ends = b.scale(0.01, np.uint8(100))
    y = b.real(b.node(op, [*b.codes(), *ends], domain=MICROSOFT, **attributes), ends)
    assert ops(b.rewritten(b.conv(y)).model) == [made, "Conv"]


def test_case_5_concat():
    b = QOperators()
    ends = b.scale(0.3, np.uint8(100))
    q = b.node("QLinearConcat", [*ends, *b.codes(), *b.codes(0.07)], domain=MICROSOFT, axis=1)
    assert ops(b.rewritten(b.real(q, ends)).model) == ["Relu", "Concat"]


def test_case_6_channels_last_and_missing_operands():
    b = QOperators()
    ends = b.scale(0.3)
    q = b.node("QLinearGlobalAveragePool", [*b.codes(), *ends], domain=MICROSOFT, channels_last=1)
    with pytest.raises(UnsupportedModelError, match="channels_last"):
        canonical(b.model(b.real(q, ends)))
    b = QOperators()
    q = b.node("QLinearAdd", [*b.codes(), b.constant("end", np.float32(1))], domain=MICROSOFT)
    with pytest.raises(UnsupportedModelError, match="QLinearAdd with 4 inputs"):
        canonical(b.model(b.real(q, b.scale(0.3))))
