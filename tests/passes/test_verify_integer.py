"""The written file is held to its promises, case by case."""

import numpy as np
import pytest
from odd_graphs import LOWERED
from onnx import helper, numpy_helper

from aqd_deploy.errors import AqdError, UnsupportedModelError
from aqd_deploy.passes.contract import Lowering, PassError
from aqd_deploy.passes.pipeline import lower
from aqd_deploy.passes.verify_integer import VerifyInteger


@pytest.fixture
def model():
    return lower(LOWERED["int8 and uint8 in one Concat"]()).model


def verified(model):
    """The state of a lowering that wrote `model`, once verify_integer has seen it."""
    state = Lowering(model)
    state.write(model, {})
    VerifyInteger()(state)
    return state


def test_case_1_types_that_do_not_fit_are_a_bug_that_is_caught(model):
    concat = next(node for node in model.graph.node if node.op_type == "Concat")
    concat.input[0] = "image"
    with pytest.raises(PassError, match="isn't a valid model"):
        verified(model)


def test_case_2_a_float_tensor_is_named(model):
    node = model.graph.node[-1]
    inner, name = f"{node.output[0]}_before", node.output[0]
    node.output[0] = inner
    half = helper.make_node("Cast", [inner], ["half"], to=1)
    model.graph.node.extend([half, helper.make_node("Cast", ["half"], [name], to=6)])
    with pytest.raises(UnsupportedModelError, match="float tensors are left"):
        verified(model)


def test_case_3_what_the_reader_refuses_is_not_written(model):
    shift = next(each for each in model.graph.initializer if each.name.endswith("_d"))
    shift.CopyFrom(numpy_helper.from_array(np.full_like(numpy_helper.to_array(shift), 64), shift.name))
    with pytest.raises(AqdError, match="shift"):
        verified(model)


def test_what_fits_is_said(model):
    assert "0 float tensors between input and heads" in verified(model).results[-1].changed
