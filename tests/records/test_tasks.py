"""Tasks are named by what they are, and survive JSON."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from aqd_deploy.kernels.contract.spec import (
    AddBias,
    ConvSpec,
    Epilogue,
    MultiplyShift,
    Relu,
    Scaling,
    SkipAdd,
    StoreRequantize,
    StoreStream,
    StoreThreshold,
)
from aqd_deploy.records.task import Task
from aqd_deploy.targets.isa import Isa

SPEC = ConvSpec(
    125,
    1,
    16,
    32,
    (3, 3),
    pads=(1, 1, 1, 1),
    levels=((10, 10), (5, 5)),
    input_range=(0, 15),
    winograd=("f2x2",),
)
EPILOGUE = Epilogue(
    (AddBias(), MultiplyShift(Scaling("narrow", lower=True)), SkipAdd(2, other_identity=True), Relu()),
    (StoreStream(), StoreRequantize(-8, 7, "int8", Scaling("high")), StoreThreshold(0, 3)),
)
TASK = Task(SPEC, EPILOGUE, Isa.VNNI, 2)


def test_json_round_trip():
    again = Task.from_json(json.loads(json.dumps(TASK.to_json())))
    assert again == TASK
    assert again.key == TASK.key and again.shape_key == TASK.shape_key


def test_everything_that_changes_the_kernel_changes_the_key():
    others = [
        replace(TASK, threads=1),
        replace(TASK, isa=Isa.AVX2),
        replace(TASK, spec=replace(SPEC, weight_range=(-15, 15))),
        replace(TASK, epilogue=Epilogue()),
    ]
    assert len({TASK.key, *(task.key for task in others)}) == len(others) + 1


def test_the_shape_key_leaves_the_epilogue_out():
    assert replace(TASK, epilogue=Epilogue()).shape_key == TASK.shape_key
    assert replace(TASK, threads=1).shape_key != TASK.shape_key


@pytest.mark.parametrize(
    "change", [{"format": 0}, {"isa": "sse9"}, {"spec": {"height": 1}}, {"spec": {"a": 1}}]
)
def test_anything_else_is_refused(change):
    with pytest.raises((KeyError, TypeError, ValueError)):
        Task.from_json({**TASK.to_json(), **change})
