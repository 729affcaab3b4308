"""Random integer graphs, compiled for every kernel family: not one integer differs from onnxruntime's."""

import numpy as np
import pytest
from random_graphs import merge, random_model
from small_models import random_image, reference, runnable_targets

from aqd_deploy.compiler import compile_model
from aqd_deploy.runtime import Program

STRUCTURES, NUMBERS = 16, 6


@pytest.fixture(scope="module")
def graphs():
    """One disjoint model of all graphs, its inputs and what onnxruntime computes."""
    model = merge([random_model(s, 1000 * s + v) for s in range(STRUCTURES) for v in range(NUMBERS)])
    inputs = random_image(model)
    return model, inputs, reference(model, inputs)


@pytest.mark.parametrize("target", runnable_targets())
def test_random_graphs_are_exact(graphs, target, tmp_path):
    model, inputs, expected = graphs
    assert len(model.graph.input) == STRUCTURES * NUMBERS
    compile_model(model, tmp_path / "p.so", target=target, threads=2)
    got = Program.load(tmp_path / "p.so").run(inputs)
    wrong = [name for name, value in expected.items() if not np.array_equal(got[name], value)]
    assert not wrong


def test_reference_is_not_constant(graphs):
    """The comparison means something: most outputs take several values."""
    _, _, expected = graphs
    varied = sum(len(np.unique(value)) > 3 for value in expected.values())
    assert varied > 0.7 * len(expected)
