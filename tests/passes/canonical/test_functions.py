"""Functions of the file's own."""

from onnx import helper
from small_files import FileBuilder, ops


def test_case_1_functions_of_functions():
    b = FileBuilder()
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("pkg", 1)]
    inner = helper.make_function(
        "pkg", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], imports
    )
    body = [helper.make_node("Relu", ["a"], ["c"]), helper.make_node("Twice", ["c"], ["b"], domain="pkg")]
    b.functions = [inner, helper.make_function("pkg", "Block", ["a"], ["b"], body, imports)]
    y = b.node("Block", [b.conv(b.quantize("image"))], domain="pkg")
    state = b.rewritten(b.conv(b.quantize(y)))
    assert ops(state.model) == ["Conv", "Relu", "Add", "Conv"] and not state.model.functions
