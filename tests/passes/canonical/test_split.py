"""Split."""

import numpy as np
import pytest
from canonical_meaning import canonical
from small_files import FileBuilder, ops


@pytest.mark.parametrize(
    ("opset", "sizes", "attributes"),
    [(17, [1, 3], {"axis": 1}), (17, None, {"axis": -3}), (18, None, {"axis": 1, "num_outputs": 2})],
)
def test_case_1_parts(opset, sizes, attributes):
    b = FileBuilder(opset=opset)
    operands = [] if sizes is None else [b.constant("sizes", np.array(sizes))]
    x = b.quantize(b.conv(b.quantize("image")))
    b.node("Split", [x, *operands], "a", "b", **attributes)
    first = 1 if sizes else 2
    y = b.node("Add", [b.conv("a", 4, first), b.conv("b", 4, 4 - first)])
    assert ops(b.rewritten(y).model).count("Slice") == 2


def test_case_2_sizes_that_are_computed():
    b = FileBuilder()
    x = b.conv(b.quantize("image"))
    size = b.node("Cast", [b.node("ReduceMax", [x], keepdims=0)], to=7)
    size = b.node("Reshape", [size, b.constant("one", np.array([1]))])
    b.node("Split", [b.quantize(x), b.node("Concat", [size, size], axis=0)], "a", "b", axis=1)
    assert "Split" in ops(canonical(b.model(b.conv(b.quantize("a"), 4, 4))).model)
