"""Nodes that do nothing."""

import numpy as np
from canonical_meaning import canonical
from onnx import TensorProto
from small_files import FileBuilder, ops


def test_case_1_identity_dropout_and_a_cast_to_its_own_type():
    b = FileBuilder()
    x = b.node("Dropout", [b.node("Identity", [b.conv(b.quantize("image"))])])
    names = b.scale(0.5, np.uint8(3))
    q = b.node("Cast", [b.node("QuantizeLinear", [x, *names])], to=TensorProto.UINT8)
    assert ops(b.rewritten(b.conv(b.node("DequantizeLinear", [q, *names]))).model) == ["Conv", "Conv"]


def test_case_1_a_dropout_whose_mask_is_read_stays():
    b = FileBuilder()
    x = b.node("Dropout", [b.conv(b.quantize("image"))], "dropped", "mask")
    b.node("Cast", ["mask"], "seen", to=TensorProto.FLOAT)
    state = canonical(b.model(b.node("Add", [x, "seen"])))
    assert "Dropout" in ops(state.tail)


def test_case_2_one_operand():
    b = FileBuilder()
    x = b.node("Sum", [b.node("Concat", [b.conv(b.quantize("image"))], axis=1)])
    assert ops(b.rewritten(b.conv(b.quantize(b.node("Max", [x])))).model) == ["Conv", "Conv"]


def test_case_3_a_sum_of_three():
    b = FileBuilder()
    parts = [b.conv(b.quantize("image")) for _ in range(3)]
    assert ops(b.rewritten(b.conv(b.quantize(b.node("Sum", parts), 0.5))).model).count("Add") == 2
