"""The graph that is read, case by case."""

import numpy as np
import pytest
from onnx import helper, numpy_helper
from qdq_graphs import QdqBuilder
from small_lowerings import chain, nodes_of, state_after

from aqd_deploy.errors import ModelFileError, UnsupportedModelError
from aqd_deploy.passes.operations import Add, Conv, Identity, MaxPool, Resize


def read(model):
    return state_after("read_qdq", model)


def test_case_1_constants_of_both_kinds():
    b = QdqBuilder(1)
    x = b.conv(b.image(), 4, 8)
    value = numpy_helper.from_array(np.full((1, 4, 1, 1), 0.5, np.float32), "half")
    b.nodes.append(helper.make_node("Constant", [], ["half"], value=value))
    b.output(b.node("Add", [x, "half"]), "y")
    state = read(b.build())
    assert state.graph.constants["half"].ravel().tolist() == [0.5] * 4
    assert len(nodes_of(state, Add)) == 1 and not any(n.op.name == "Constant" for n in state.graph.nodes)


def test_case_2_identity_goes_and_stays_where_it_is_an_output():
    state = read(chain(lambda b, x: b.node("Identity", [x]), lambda b, x: b.relu(x)))
    assert nodes_of(state, Identity) == []
    assert any("Identity removed" in line for line in state.results[0].changed)
    state = read(chain(lambda b, x: b.node("Identity", [x])))
    assert [node.output for node in nodes_of(state, Identity)] == ["out"]
    assert any("the graph's output has its name by Identity" in line for line in state.results[-1].left_alone)


def test_case_3_what_no_output_needs_goes():
    def body(b, x):
        b.relu(x)
        return b.max_pool(x)

    state = read(chain(body))
    assert not any(node.op.name == "Relu" for node in state.graph.nodes)
    assert any("nothing reads, removed" in line for line in state.results[0].changed)


def test_case_4_windows_and_factors_are_explicit():
    def pool(b, x):
        return b.node("MaxPool", [x], (4, 4, 4), kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER")

    state = read(chain(pool, lambda b, x: b.upsample(x, 3)))
    (pooled,), (resized,) = nodes_of(state, MaxPool), nodes_of(state, Resize)
    assert pooled.op.window.pads == (0, 0, 1, 1)
    assert resized.op.factors == (3, 3) and len(resized.inputs) == 1
    (conv,) = nodes_of(state, Conv)
    assert (conv.op.window.pads, conv.op.group) == ((1, 1, 1, 1), 1)


def test_case_4_factors_that_are_not_whole():
    def halves(b, x):
        scales = b.constant("scales", np.array([1, 1, 1.5, 1.5], np.float32))
        attributes = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return b.node("Resize", [x, "", scales], (4, 12, 12), mode="nearest", **attributes)

    with pytest.raises(UnsupportedModelError, match=r"Resize from .* by \[1.0, 1.0, 1.5, 1.5\]"):
        read(chain(halves))


def test_case_5_a_manifest_of_another_input():
    b = QdqBuilder(1)
    b.output(b.conv(b.image(), 4, 8), "y")
    image = {"input": "picture", "height": 8, "width": 8, "color": "BGR", "resize": "letterbox"}
    image |= {"pad_value": [0, 0, 0], "mean": [0, 0, 0], "std": [1, 1, 1]}
    with pytest.raises(ModelFileError, match="picture"):
        read(b.build({"schema": 1, "name": "m", "preprocessing": image}))
    image["input"] = "image"
    assert (
        read(b.build({"schema": 1, "name": "m", "preprocessing": image})).manifest["preprocessing"] == image
    )
