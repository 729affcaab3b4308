"""What the first pass refuses and fixes, case by case; test_refusals has the rest of the refusals."""

import pytest
from qdq_graphs import QdqBuilder
from small_lowerings import chain, state_after

from aqd_deploy.errors import ModelFileError, ShapeError, UnsupportedModelError
from aqd_deploy.passes.check_model import MAXIMUM_OPSET


def checked(model, shape=None):
    return state_after("check_model", model, shape=shape)


@pytest.mark.parametrize(("version", "words"), [(12, "too old"), (MAXIMUM_OPSET + 1, "newer than")])
def test_case_1_opsets(version, words):
    model = chain()
    model.opset_import[0].version = version
    with pytest.raises(UnsupportedModelError, match=words):
        checked(model)


def test_case_2_an_unknown_operator_is_named_with_those_that_are_known():
    model = chain(lambda b, x: b.conv(b.quantize(b.node("Det", [x]), 4), 4, 4))
    with pytest.raises(UnsupportedModelError, match=r"Det can't be lowered: .*no word for it") as caught:
        checked(model)
    assert caught.value.received == "Det" and "BatchNormalization" in caught.value.valid


def test_case_3_an_attribute_that_no_pass_honours():
    model = chain()
    next(node for node in model.graph.node if node.op_type == "BatchNormalization").attribute.add(
        name="training_mode", i=1, type=2
    )
    with pytest.raises(UnsupportedModelError, match="training_mode = 1"):
        checked(model)


def test_case_4_a_graph_without_outputs():
    model = chain()
    del model.graph.output[:]
    with pytest.raises(ModelFileError, match="no outputs"):
        checked(model)


def test_case_5_a_shape_is_set_and_said():
    state = checked(chain(), [1, 3, 16, 12])
    dims = state.model.graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_value for dim in dims] == [1, 3, 16, 12]
    assert state.results[0].changed == ["input image: shape set to [1, 3, 16, 12]"]


def test_case_5_a_shape_is_left_alone_with_the_reason():
    assert "none was asked for" in checked(chain()).results[0].left_alone[0]


def test_case_5_a_batch_is_refused():
    b = QdqBuilder(1)
    b.inputs[0].type.tensor_type.shape.dim[0].dim_value = 2
    b.output(b.conv(b.image(), 4, 8), "y")
    with pytest.raises(ShapeError, match="batch of 2"):
        checked(b.build())
