"""Float images."""

import numpy as np
import pytest
from canonical_meaning import canonical, manifest_entry
from onnx import TensorProto
from small_files import FileBuilder

from aqd_deploy.errors import UnsupportedModelError


@pytest.mark.parametrize("zero", [np.uint8(7), np.int8(-3)])
def test_case_1_codes_and_what_they_mean(zero):
    b = FileBuilder()
    x = b.quantize("image", 0.125, zero)
    again = b.quantize("image", 0.125, zero)
    state = b.rewritten(b.node("Add", [b.conv(x), b.conv(again)]))
    entry = {"scale": 0.125, "zero_point": int(zero), "dtype": str(zero.dtype)}
    assert manifest_entry(state.model)["inputs"] == {"image": entry}
    kind = state.model.graph.input[0].type.tensor_type.elem_type
    assert kind == (TensorProto.UINT8 if zero.dtype == np.uint8 else TensorProto.INT8)
    assert not [node for node in state.model.graph.node if node.op_type == "QuantizeLinear"]


def test_case_2_two_quantizers_that_disagree():
    b = FileBuilder()
    y = b.node("Add", [b.conv(b.quantize("image", 0.1)), b.conv(b.quantize("image", 0.2))])
    with pytest.raises(
        UnsupportedModelError, match=r"t0 and t4 disagree on the input image.*scale 0\.1.*scale 0\.2"
    ):
        canonical(b.model(y))


def test_case_3_an_input_that_something_else_reads_too():
    b = FileBuilder()
    y = b.conv(b.quantize(b.node("Add", [b.conv(b.quantize("image")), "image"])))
    state = b.rewritten(y)
    assert state.model.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
    assert "inputs" not in manifest_entry(state.model)
