"""Unusual graphs: the right integers, by exact evaluation of the QDQ file, or a refusal that says why."""

import json
from fractions import Fraction

import numpy as np
import onnx
import pytest
from exact_evaluation import ExactNetwork
from odd_graphs import LOWERED, inputs_of, pool
from refused_graphs import REFUSED

from aqd_deploy.integer.reference import ReferenceRunner
from aqd_deploy.passes.graph import Graph, Node
from aqd_deploy.passes.names import Names
from aqd_deploy.passes.operations import Relu
from aqd_deploy.passes.operators import OPERATORS
from aqd_deploy.passes.pipeline import lower


@pytest.mark.parametrize("name", LOWERED)
def test_the_integers_are_those_of_the_exact_network(name):
    """Heads within their recorded bound, codes equal where nothing in front was rounded; tolerance zero."""
    qdq = LOWERED[name]()
    result = lower(qdq)
    inputs = inputs_of(qdq)
    exact = ExactNetwork(qdq).run(inputs["image"])
    integer = ReferenceRunner(result.model, threads=1, with_intermediates=True).run(inputs)
    for entry in result.report["requantizations"]:
        # Of an output, the QDQ file has the reals under this name.
        inner = entry["output"] in exact and entry["output"] not in result.report["output_errors"]
        if entry["equal_end_to_end"] and inner:
            assert (integer[entry["output"]] == exact[entry["output"]]).all(), entry["output"]
    manifest = json.loads(result.model.metadata_props[0].value)
    for output, bound in result.report["output_errors"].items():
        scales = np.broadcast_to(manifest["outputs"][output]["scale"], exact[output].shape[1])
        for channel, scale in enumerate(scales.tolist()):
            zero = manifest["outputs"][output].get("zero_point", 0)
            got = (integer[output][0, channel].ravel().astype(np.int64) - zero).tolist()
            wanted = [value / Fraction(scale) for value in exact[output][0, channel].ravel()]
            # The scale is a float64 of an exact rational: 2^-52 of a value below 2^31.
            assert max(abs(g - w) for g, w in zip(got, wanted, strict=True)) <= bound + 1e-6


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_lowered_is_refused_with_its_reason(name):
    make, error, match = REFUSED[name]
    with pytest.raises(error, match=match) as caught:
        lower(make())
    assert "\n" not in str(caught.value)


def test_every_attribute_of_every_opset_is_known_or_refused():
    """The table has ONNX's attributes, no others; it leaves out those of types that aren't numbers."""
    left_out = {"Constant": {"sparse_value", "value_string", "value_strings"}}
    for op, entry in OPERATORS.items():
        known = {
            name
            for schema in onnx.defs.get_all_schemas_with_history()
            if (schema.name, schema.domain) == (op, "") and schema.since_version >= 9
            for name in schema.attributes
        }
        assert set(entry.attributes) == known - left_out.get(op, set()), op


def test_a_pooling_that_ceil_mode_makes_is_written_with_pads():
    model = lower(pool(4, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)).model
    node = next(node for node in model.graph.node if node.op_type == "MaxPool")
    assert {a.name: list(a.ints) for a in node.attribute} == {
        "kernel_shape": [3, 3],
        "strides": [2, 2],
        "pads": [0, 0, 1, 1],
    }


def test_a_name_is_given_once():
    names = Names(["y", "y_1"])
    assert [names.fresh("y"), names.fresh("y"), names.fresh("z"), names.fresh("z")] == [
        "y_2",
        "y_3",
        "z",
        "z_4",
    ]
    graph = Graph("g", {}, ["y"], [Node(Relu(), ["x"], "y")], {}, names=Names(["zero"]))
    assert graph.fresh("zero") != "zero"
