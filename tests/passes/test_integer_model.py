"""What is not integer is lowered, as it was asked for; what is integer stays as it is."""

from __future__ import annotations

import pytest
from qdq_graphs import random_graph

from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.integer.kinds import kind_of
from aqd_deploy.integer.manifest import read_manifest
from aqd_deploy.passes.integer_model import integer_model
from aqd_deploy.passes.pipeline import lower


def test_a_qdq_model_is_lowered_with_the_numerics_that_were_asked_for():
    told = []
    model, tail = integer_model(random_graph(0), numerics="paper", on_lowering=lambda: told.append(True))
    assert kind_of(model) == "integer" and told == [True] and tail is None
    assert read_manifest(model)["lowering"]["numerics"] == "paper"


def test_an_integer_model_is_taken_as_it_is():
    model, told = lower(random_graph(0)).model, []
    same, tail = integer_model(model, numerics="paper", on_lowering=lambda: told.append(True))
    assert same is model and tail is None
    assert told == [] and read_manifest(model)["lowering"]["numerics"] == "exact"


def test_what_lowering_refuses_is_refused():
    with pytest.raises(UnsupportedModelError, match="unknown numerics mode; got rough"):
        integer_model(random_graph(0), numerics="rough")
