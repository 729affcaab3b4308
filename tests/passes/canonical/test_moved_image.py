"""Images that are taken apart before they are quantized."""

import numpy as np
import pytest
from canonical_meaning import manifest_entry
from onnx import TensorProto
from small_files import FileBuilder, ops


def focus(b, step=2):
    """The image in four parts, one behind the other."""
    parts = []
    for row in (0, 1):
        for column in (0, 1):
            at = b.constant(f"at{row}{column}", np.array([row, column]))
            rest = [b.constant(f"{key}{row}{column}", np.array(v)) for key, v in
                    (("to", [6, 6]), ("axes", [2, 3]), ("steps", [step, step]))]  # fmt: skip
            parts.append(b.node("Slice", ["image", at, *rest]))
    return parts


@pytest.mark.parametrize("zero", [np.uint8(7), np.int8(-3)])
def test_case_1_slices_joined_and_quantized(zero):
    b = FileBuilder()
    y = b.conv(b.quantize(b.node("Concat", focus(b), axis=1), 0.05, zero), inside=16)
    state = b.rewritten(y)
    assert manifest_entry(state.model)["inputs"]["image"]["zero_point"] == zero
    assert state.model.graph.input[0].type.tensor_type.elem_type != TensorProto.FLOAT
    assert ops(state.model) == ["Slice"] * 4 + ["Concat", "Conv"]


def test_case_1_parts_with_quantizers_of_their_own():
    b = FileBuilder()
    first, *_, last = focus(b)
    y = b.node("Add", [b.conv(b.quantize(first)), b.conv(b.quantize(last))])
    assert "image" in manifest_entry(b.rewritten(y).model)["inputs"]


@pytest.mark.parametrize("case", ["another scale", "the image as well", "a sum"])
def test_case_2_what_stays(case):
    b = FileBuilder()
    first, second, *_ = focus(b)
    y = b.conv(b.quantize(first))
    outputs = {
        "another scale": lambda: [b.node("Add", [y, b.conv(b.quantize(second, 0.2))])],
        "the image as well": lambda: [y, b.conv(b.quantize("image"))],
        "a sum": lambda: [b.node("Add", [y, b.conv(b.quantize(b.node("Add", [first, second])))])],
    }[case]()
    model = b.rewritten(*outputs).model
    assert "inputs" not in manifest_entry(model)
    assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
