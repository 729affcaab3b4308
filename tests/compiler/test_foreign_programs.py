"""The dialect's words for other networks than AQD's, compiled: not one integer differs from the reference."""

import numpy as np
import pytest
from foreign_graphs import foreign_model
from foreign_words import CASES, SIZES, STREAM_CASES, word_model
from random_graphs import merge
from small_models import INT8, UINT8, random_image, reference, runnable_targets

from aqd_deploy.compiler import compile_model
from aqd_deploy.runtime import Program

STRUCTURES, NUMBERS = 12, 3


def with_reference(models):
    """One disjoint model, its inputs and what onnxruntime computes."""
    model = merge(models)
    inputs = random_image(model)
    return model, inputs, reference(model, inputs)


@pytest.fixture(scope="module")
def words():
    """Every word on every size and type, and other geometries of some."""
    pools = [((3, 2), (1, 2), (1, 1, 2, 0)), ((2, 2), (2, 2), (0, 0, 0, 0))]
    cases = [*CASES.values()]
    cases += [lambda w, x, c, pool=pool: w.sum_pool(x, *pool, 7) for pool in pools]
    models = [
        word_model(build, dtype, sizes) for build in cases for dtype in (UINT8, INT8) for sizes in SIZES[2:]
    ]
    models += [word_model(build, UINT8, SIZES[2]) for build in STREAM_CASES.values()]
    squares = [("CRD", 2), ("DCR", 2), ("CRD", 3), ("DCR", 1)]
    models += [
        word_model(lambda w, x, c, m=mode, b=block: w.depth_to_space(x, b, m), INT8, (36, 3, 2))
        for mode, block in squares
    ]
    return with_reference(models)


@pytest.fixture(scope="module")
def graphs():
    return with_reference([foreign_model(s, 1000 * s + v) for s in range(STRUCTURES) for v in range(NUMBERS)])


@pytest.mark.parametrize("target", runnable_targets())
def test_words_are_exact(words, target, tmp_path):
    assert_exact(words, target, 1 if target == "x86-64-v2" else 2, tmp_path)


@pytest.mark.parametrize("target", runnable_targets())
def test_random_graphs_of_them_are_exact(graphs, target, tmp_path):
    assert_exact(graphs, target, 2, tmp_path)


def assert_exact(case, target, threads, folder):
    model, inputs, expected = case
    compile_model(model, folder / "p.so", target=target, threads=threads)
    got = Program.load(folder / "p.so").run(inputs)
    assert [name for name, value in expected.items() if not np.array_equal(got[name], value)] == []


def test_reference_is_not_constant(graphs):
    _, _, expected = graphs
    varied = sum(len(np.unique(value)) > 3 for value in expected.values())
    assert varied > 0.7 * len(expected)
