"""A changed integer file is refused in one sentence, or what the compiler reads in it means the same as what
onnxruntime computes, and of some the programs do.
"""

import random

import numpy as np
import onnx
import onnxruntime
import pytest
import qdq_graphs
from graph_meaning import evaluate
from integer_mutations import changed, changes
from random_graphs import merge
from small_models import every_operation, random_image, reference

from aqd_deploy.compiler import compile_model
from aqd_deploy.errors import AqdError
from aqd_deploy.integer.graph import Graph
from aqd_deploy.integer.reader import read_graph
from aqd_deploy.passes.pipeline import lower
from aqd_deploy.runtime import Program

NUMBER = 500


def lowered() -> onnx.ModelProto:
    """What `lower` writes, with its manifest."""
    return lower(qdq_graphs.random_graph(8, bits=4)).model


def accepted(model: onnx.ModelProto) -> Graph | None:
    try:
        return read_graph(model)
    except AqdError as error:
        assert "\n" not in str(error)
        assert len(str(error)) < 1000
        return None


def agree(graph: Graph, model: onnx.ModelProto) -> bool:
    image = random_image(model)
    expected, got = reference(model, image), evaluate(graph, image)
    return expected.keys() == got.keys() and all(
        expected[name].dtype == got[name].dtype and np.array_equal(expected[name], got[name])
        for name in expected
    )


@pytest.mark.parametrize("make", [every_operation, lowered])
def test_a_changed_model_is_refused_or_means_the_same(make):
    onnxruntime.set_default_logger_severity(4)
    model = make()
    assert agree(read_graph(model), model)
    refused, wrong = 0, []
    for label, change in random.Random(12).sample(list(changes(model)), NUMBER):
        mutant = changed(model, change)
        graph = accepted(mutant)
        refused += graph is None
        if graph is not None and not agree(graph, mutant):
            wrong.append(label)
    assert not wrong
    assert NUMBER // 2 < refused < NUMBER


def test_programs_of_accepted_mutants_are_exact(tmp_path):
    """Constants at their limits, and a few of the geometries: the kernels are those of one model."""
    base, draw = every_operation(), random.Random(3)
    values = [(label, change) for label, change in changes(base) if "] = " in label]
    models = []
    for kind, number in (("initializer", 20), ("node", 4)):
        possible = [changed(base, change) for label, change in values if label.startswith(kind)]
        models += draw.sample([model for model in possible if accepted(model) is not None], number)
    merged = merge(models)
    image = random_image(merged)
    compile_model(merged, tmp_path / "m.so", threads=1)
    got = Program.load(tmp_path / "m.so").run(image)
    for i, model in enumerate(models):
        expected = reference(model, {"image": image[f"g{i}_image"]})
        for name, value in expected.items():
            assert np.array_equal(got[f"g{i}_{name}"], value), (i, name)
