"""What a file is, by its operators."""

from __future__ import annotations

import numpy as np
import pytest
from classifiers import integer_classifier
from onnx import TensorProto, helper, numpy_helper

from aqd_deploy.integer.kinds import kind_of


def model(*operators, weights="float32"):
    """A chain of operators, `domain:name` or a name, and a tensor of weights."""
    nodes = [
        helper.make_node(name, [f"x{index}"], [f"x{index + 1}"], domain=domain)
        for index, (domain, _, name) in enumerate(each.rpartition(":") for each in operators)
    ]
    values = [helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, [1]) for i in (0, len(nodes))]
    tensor = numpy_helper.from_array(np.zeros(1, weights), "w")
    return helper.make_model(helper.make_graph(nodes, "g", values[:1], values[1:], [tensor]))


@pytest.mark.parametrize(
    ("made", "kind"),
    [
        (integer_classifier(), "integer"),
        (model("QuantizeLinear", "DequantizeLinear"), "qdq"),
        (model("DequantizeLinear"), "qdq"),
        (model("com.microsoft:QuantizeLinear"), "qdq"),
        (model("QuantizeLinear", "QLinearConv", "DequantizeLinear"), "qoperator"),
        (model("QuantizeLinear", "com.microsoft:QGemm"), "qoperator"),
        (model("DynamicQuantizeLinear", "MatMulInteger"), "qoperator"),
        (model("qonnx.custom_op.general:Quant", "QuantizeLinear"), "qonnx"),
        (model("onnx.brevitas:Quant"), "qonnx"),
        (model("Conv", weights="float16"), "float16"),
        (model("Conv"), "float"),
    ],
)
def test_kinds(made, kind):
    assert kind_of(made) == kind
