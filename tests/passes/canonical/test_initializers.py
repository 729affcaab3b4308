"""Initializers that are inputs."""

from onnx import helper
from small_files import FileBuilder


def test_case_1_an_initializer_that_is_listed_as_an_input():
    b = FileBuilder(ir_version=3)
    y = b.conv(b.quantize("image"))
    b.inputs += [helper.make_tensor_value_info(each.name, each.data_type, each.dims) for each in b.constants]
    state = b.rewritten(y)
    assert [value.name for value in state.model.graph.input] == ["image"]
