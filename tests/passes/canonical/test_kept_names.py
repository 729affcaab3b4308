"""Odd names: those that an integer file cannot keep, and those that look like names that are made."""

import numpy as np
import pytest
from canonical_meaning import canonical
from small_files import FileBuilder, constants_of
from written_networks import deviations

from aqd_deploy.errors import ModelFileError
from aqd_deploy.passes.pipeline import lower


def network(b, names):
    """A split, a vector, an average and two convolutions, tensors and constants named from `names`."""
    names = iter(names)

    def called(output):
        b.nodes[-1].output[0] = next(names, output)
        return b.nodes[-1].output[0]

    x = called(b.quantize(called(b.conv(b.quantize("image"))), 0.5))
    b.node("Split", [x], next(names, "first"), next(names, "second"), axis=1)
    first, second = b.nodes[-1].output
    y = called(b.node("Add", [first, second]))
    y = called(b.quantize(called(b.node("GlobalAveragePool", [b.quantize(y, 0.25)])), 0.25))
    w = b.weights((3, 2), 0)
    b.constants[-2].name = b.nodes[-1].input[0] = next(names, b.constants[-2].name)
    return b.node("Gemm", [b.node("Flatten", [y]), w], "logits", transB=1)


LONG = "module." * 60
ODD = {
    "long": [LONG + str(i) for i in range(12)],
    "alike when cut": [LONG + "a" * i for i in range(12)],
    "not printable": [f"a\n{i}" for i in range(12)],
    "the compiler's": [f"a{i}:nchw" for i in range(12)],
    "like those that are made": [
        "y",
        "y_c",
        "y_1",
        "t7_starts",
        "t8_int",
        "y_c_1",
        "zero",
        "one",
        "y_d",
        "ones_1x1",
    ],
    "a weight called zero": ["a", "b", "c", "d", "e", "f", "g", "zero"],
}


@pytest.mark.parametrize("names", ODD.values(), ids=ODD)
def test_case_1_names_inside(names):
    b = FileBuilder()
    model = b.model(network(b, names))
    result = lower(model)
    plain = FileBuilder()
    expected = lower(plain.model(network(plain, [])))
    assert [n.op_type for n in result.model.graph.node] == [n.op_type for n in expected.model.graph.node]
    found = deviations(model, result, b.images())
    assert found.pieces and not found.differing and max(found.outputs.values()) <= 0


def test_case_1_nodes_too():
    b = FileBuilder()
    x = b.conv(b.quantize("image"))
    for node in b.nodes:
        node.name = LONG
    assert all(len(node.name) < 230 for node in canonical(b.model(x)).model.graph.node)


def test_case_2_an_output_is_the_users():
    b = FileBuilder()
    b.conv(b.quantize("image"))
    b.nodes[-1].output[0] = LONG
    state = canonical(b.model(LONG))
    assert state.model.graph.output[0].name == LONG and np.all(list(constants_of(state.model)))
    with pytest.raises(ModelFileError, match="can't be kept"):
        lower(b.model(LONG))
