"""The words of other networks than AQD's on a card, emulated: no integer differs from onnxruntime."""

import numpy as np
import pytest
from card_emulation import SETTINGS, emulated
from foreign_graphs import foreign_model
from foreign_words import CASES, SIZES, STREAM_CASES, word_model
from random_graphs import merge
from small_models import INT8, UINT8, random_image, reference

from aqd_deploy.compiler.planning import plan_for_card

STRUCTURES, NUMBERS = 6, 3


def words():
    """Every word for both types of codes, and every order of channels in squares."""
    built = [(build, SIZES[2 + index % 2]) for index, build in enumerate(CASES.values())]
    squares = [("CRD", 2), ("DCR", 2), ("CRD", 3), ("DCR", 1)]
    built += [(lambda w, x, c, b=b, m=m: w.depth_to_space(x, b, m), (36, 3, 2)) for m, b in squares]
    windows = [((3, 2), (1, 2), (1, 1, 2, 0)), ((2, 2), (2, 2), (0, 0, 0, 0))]
    built += [(lambda w, x, c, window=w_: w.sum_pool(x, *window, 7), (8, 9, 3)) for w_ in windows]
    streams = [word_model(build, UINT8, SIZES[2 + i % 2]) for i, build in enumerate(STREAM_CASES.values())]
    return [word_model(build, dtype, sizes) for build, sizes in built for dtype in (UINT8, INT8)] + streams


def graphs():
    return [foreign_model(s, 1000 * s + v) for s in range(STRUCTURES) for v in range(NUMBERS)]


@pytest.mark.parametrize("models", [words, graphs])
def test_a_program_for_a_card_gives_the_integers_of_onnxruntime(models, tmp_path):
    model = merge(models())
    program = emulated(plan_for_card(model), tmp_path, 2, SETTINGS[1], "sm_87")
    runs = [random_image(model, seed) for seed in range(2)]
    got = program.run({name: np.concatenate([run[name] for run in runs]) for name in runs[0]})
    for index, run in enumerate(runs):
        expected = reference(model, run)
        wrong = [n for n, value in expected.items() if not np.array_equal(got[n][index : index + 1], value)]
        assert wrong == []
