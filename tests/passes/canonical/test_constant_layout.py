"""Constants that are moved behind their quantizers."""

import numpy as np
import pytest
from canonical_meaning import canonical
from small_files import FileBuilder, constants_of, ops


@pytest.mark.parametrize(
    ("shape", "axis", "op", "attributes", "result"),
    [
        ((1, 1, 4, 6), 3, "Transpose", {"perm": [3, 2, 0, 1]}, (6, 4, 1, 1)),
        ((1, 1, 4, 6), None, "Transpose", {}, (6, 4, 1, 1)),
        ((6, 4), 0, "Unsqueeze", {"axes": [2, 3]}, (6, 4, 1, 1)),
        ((1, 6, 4, 1, 1), 1, "Squeeze", {"axes": [0]}, (6, 4, 1, 1)),
        ((6, 2, 2), 0, "Reshape", {"shape": [6, 4, 1, 1]}, (6, 4, 1, 1)),
    ],
)
def test_case_1_codes_are_moved_with_their_axis(shape, axis, op, attributes, result):
    b = FileBuilder()
    w = b.weights(shape, axis)
    operands = (
        [b.constant("to", np.array(next(iter(attributes.values()))))]
        if op in ("Unsqueeze", "Squeeze", "Reshape")
        else []
    )
    y = b.node(
        "Conv", [b.quantize("image"), b.node(op, [w, *operands], **(attributes if not operands else {}))]
    )
    state = b.rewritten(y)
    assert ops(state.model) == ["Conv"]
    assert any(array.shape == result for array in constants_of(state.model).values())


def test_case_2_a_reshape_that_takes_the_axis_apart():
    b = FileBuilder()
    w = b.node("Reshape", [b.weights((3, 8), 0), b.constant("to", np.array([6, 4, 1, 1]))])
    state = canonical(b.model(b.quantize(b.node("Conv", [b.quantize("image"), w]), 0.5)))
    assert "Reshape" in ops(state.model)
