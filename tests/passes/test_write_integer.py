"""The integer file, case by case."""

import pytest
from qdq_graphs import QdqBuilder
from small_lowerings import chain, initializers, manifest_of, state_after

from aqd_deploy.passes.contract import PassError
from aqd_deploy.passes.graph import Node
from aqd_deploy.passes.operations import Relu
from aqd_deploy.passes.pipeline import lower
from aqd_deploy.passes.write_integer import WriteInteger, _model


def quantized(b, x):
    return b.conv(b.quantize(x, 4, 0.25), 4, 4)


def test_case_1_a_node_a_node_and_constants_as_initializers():
    state = state_after("write_integer", chain(quantized))
    graph, written = state.graph, state.integer.graph
    assert [node.output[0] for node in written.node] == [node.output for node in graph.nodes]
    requantize = next(node for node in written.node if node.op_type == "Requantize")
    assert set(requantize.input[1:]) <= initializers(state.integer).keys()
    assert [name[-2:] for name in requantize.input[1:]] == ["_c", "_B", "_d"]


def test_an_operation_without_an_integer_form_is_not_written():
    state = state_after("solve_requantize", chain(quantized))
    state.graph.nodes.append(Node(Relu(), ["out"], "y", "relu_1"))
    with pytest.raises(PassError, match="write_integer finds what it must not: Relu relu_1 is left"):
        WriteInteger()(state)
    with pytest.raises(PassError, match="Relu relu_1 is left"):
        _model(state.graph)


def test_case_2_the_manifest_keeps_its_entries_and_gains_outputs_and_ranges():
    b = QdqBuilder(4)
    b.output(b.conv(b.image(), 4, 8), "cls_p3")
    result = lower(b.build({"schema": 1, "name": "mine", "bits": {"weights": 8}}))
    manifest = manifest_of(result.model)
    assert (manifest["name"], manifest["bits"]) == ("mine", {"weights": 8})
    assert manifest["outputs"].keys() == {"cls_p3"}
    assert manifest["ranges"]["image"] == {"lo": 0, "hi": 255}
    assert manifest["lowering"] == {
        "numerics": "exact",
        "requantized_channels": 0,
        "proven": 0,
        "proven_of_network": 0,
        "largest_input_error_steps": 0.0,
        "requantizations_count": 0,
        "equal_end_to_end": 0,
        "float_tensors": 0,
    }
