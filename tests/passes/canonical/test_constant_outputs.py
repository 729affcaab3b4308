"""Outputs that are constants."""

import numpy as np
import pytest
from onnx import TensorProto
from small_files import FileBuilder

from aqd_deploy.errors import AqdError
from aqd_deploy.passes.pipeline import lower


def test_case_1_constants_beside_an_output():
    b = FileBuilder()
    x = b.conv(b.quantize("image"))
    b.node("Add", [b.constant("a", np.float32(1)), "a"], "two")
    state = b.rewritten(x, "a", "two")
    assert [value.name for value in state.model.graph.output] == [x] and state.tail is None
    assert any("constant outputs left out: a, two" in line for line in state.results[0].changed)


def test_case_2_nothing_but_constants():
    b = FileBuilder(kind=TensorProto.UINT8)
    names = [b.constant("a", np.int8(1)), b.constant("s", np.float32(1))]
    y = b.node("Identity", [b.node("DequantizeLinear", names)])
    with pytest.raises(AqdError, match=r"constant|no node"):
        lower(b.model(y))
