"""Opsets before 13."""

import numpy as np
import pytest
from canonical_meaning import canonical
from onnx import helper
from small_files import FileBuilder, constants_of, ops
from written_networks import deviations

from aqd_deploy.passes.pipeline import lower


@pytest.mark.parametrize("opset", [10, 11, 12])
def test_case_1_an_attribute_becomes_an_operand(opset):
    b = FileBuilder(opset=opset, ir_version=5)
    b.scale(0.1)
    x = b.node("Squeeze", [b.quantize("image")], axes=[0])
    x = b.node("Unsqueeze", [x], axes=[0])
    y = b.node(
        "Conv", [x, b.node("DequantizeLinear", [b.constant("w", np.ones((4, 4, 1, 1), np.int8)), "s0"])]
    )
    state = canonical(b.model(y))
    assert state.model.opset_import[0].version == 13 and ops(state.model) == ["Conv"]


def test_case_2_resize_of_opset_10_counts_from_the_corner():
    b = FileBuilder(opset=10, ir_version=5)
    x = b.quantize("image", zero=np.uint8(3))
    y = b.node("Resize", [x, b.constant("by", np.array([1, 1, 2, 2], np.float32))], mode="nearest")
    state = canonical(b.model(b.quantize(y)))
    (resize,) = [node for node in state.model.graph.node if node.op_type == "Resize"]
    told = {a.name: a.s for a in resize.attribute}
    assert told["coordinate_transformation_mode"] == b"asymmetric" and told["nearest_mode"] == b"floor"
    assert "by" in constants_of(state.model)


@pytest.mark.parametrize("opset", range(10, 26))
def test_every_opset_is_lowered(opset):
    """With the IR version that came with it, and initializers as inputs where that was so."""
    versions = {
        10: 5,
        11: 6,
        12: 7,
        13: 7,
        14: 7,
        15: 8,
        16: 8,
        17: 8,
        18: 8,
        19: 9,
        20: 9,
        21: 10,
        22: 10,
        23: 11,
    }
    b = FileBuilder(opset=opset, ir_version=versions.get(opset, 12))
    y = b.node("Conv", [b.quantize("image"), b.weights((4, 4, 1, 1))])
    model = b.model(b.quantize(b.node("Relu", [y]), 0.5))
    result = lower(model)
    found = deviations(model, result, b.images())
    assert max(found.outputs.values()) <= 0
    model.ir_version = 3
    model.graph.input.extend(
        helper.make_tensor_value_info(each.name, each.data_type, each.dims) for each in b.constants
    )
    assert lower(model).model == result.model
