"""Every operation of the dialect has a way into a program; one without is refused by name."""

import numpy as np
import pytest
from small_models import every_operation

from aqd_deploy.compiler import lowerings, plan
from aqd_deploy.compiler.arithmetic import specialise
from aqd_deploy.compiler.lowerings import LOWERINGS
from aqd_deploy.compiler.planning import plan_model
from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.integer.operations import OPERATIONS
from aqd_deploy.integer.ranges import Interval
from aqd_deploy.integer.types import TensorType


def test_the_table_is_that_of_the_dialect():
    """What renames is no node of a graph."""
    assert set(LOWERINGS) == {entry.name for entry in OPERATIONS if not entry.renames}


@pytest.mark.parametrize("name", sorted(LOWERINGS))
def test_an_operation_without_a_lowering_is_refused(monkeypatch, name):
    monkeypatch.delitem(lowerings.LOWERINGS, name)
    with pytest.raises(UnsupportedModelError, match="the compiler cannot run") as error:
        plan_model(every_operation())
    assert f"got {name}; valid: " in str(error.value)


CLASSES = (
    plan.Conv,
    plan.Pointwise,
    plan.MaxPool,
    plan.Resize,
    plan.Pad,
    plan.Concat,
    plan.Stack,
    plan.Unstack,
    plan.ToChannelsLast,
    plan.ToChannelsFirst,
)


def test_what_operations_of_a_plan_read_and_write():
    assert plan.Concat("c", ("a", "b"), "y").reads == ("a", "b")
    assert plan.Unstack("u", "s", (0, 4), ("a", "b")).writes == ("a", "b")
    assert plan.ToChannelsLast("x", "x:nchw", "x").reads == ("x:nchw",)
    for kind in CLASSES:
        assert issubclass(kind, plan.Computation) != issubclass(kind, plan.Movement)


def test_copies_say_where_their_maps_could_lie():
    tensors = {"a": TensorType(2, 4, 8, "uint8"), "b": TensorType(1, 2, 8, "uint8")}
    tensors["s"] = TensorType(10, 1, 8, "uint8")
    assert plan.Stack("s", ("a", "b"), "s").places(tensors) == [("a", "s", 0), ("b", "s", 64)]
    assert plan.Unstack("u", "s", (8,), ("b",)).places(tensors) == [("b", "s", 64)]
    assert plan.Concat("c", ("a", "b"), "s").places(tensors) == []


def test_intervals_of_movements():
    one = Interval(np.array([0, -3]), np.array([5, 4]))
    padded = plan.Pad("p", "x", "y", (1, 1, 1, 1), (9, -7)).interval([one])
    assert (padded.lo.tolist(), padded.hi.tolist()) == ([0, -7], [9, 4])
    joined = plan.Concat("c", ("a", "b"), "y").interval([one, one])
    assert joined.lo.tolist() == [0, -3, 0, -3]


class Forgetful(plan.OneInput, plan.OneOutput):
    """An operation that is neither a computation nor a movement."""

    name, input, output = "f", "x", "y"


def test_an_operation_that_forgets_to_say_is_an_error():
    with pytest.raises(TypeError, match="abstract"):
        plan.OneInput()
    tensors = dict.fromkeys("xy", TensorType(1, 1, 1, "uint8"))
    with pytest.raises(UnsupportedModelError, match=r"f: the compiler knows no interval.*got Forgetful"):
        specialise(plan.Plan(["x"], ["y"], [Forgetful()], tensors, {}))
