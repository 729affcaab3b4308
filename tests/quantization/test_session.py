"""The network in onnxruntime: optimized, or with the arithmetic that is written in the file."""

import time

import numpy as np
import pytest
from float_graphs import float_graph
from float_networks import images, residual_network

from aqd_deploy.integer.reference import ReferenceRunner
from aqd_deploy.quantization import session as session_module
from aqd_deploy.quantization.calibration import Calibration
from aqd_deploy.quantization.pipeline import quantize
from aqd_deploy.quantization.recipe import Recipe, Steps
from aqd_deploy.quantization.session import Session, over

SHAPE = (1, 3, 8, 8)


def scaled_convolution():
    """One product a value, and another behind it: onnxruntime would make one of the two."""
    weights = np.zeros((3, 3, 1, 1), np.float32)
    weights[range(3), range(3)] = np.float32([0.1, 0.7, 1.3])[:, None, None]
    factors = np.float32([0.3, 0.9, 1.7]).reshape(1, 3, 1, 1)
    return float_graph("c = Conv(image, w) y = Mul(c, m)", {"w": weights, "m": factors}), weights, factors


@pytest.mark.parametrize("runs", ["Session", "ReferenceRunner"])
def test_as_written_rounds_where_the_file_does(runs):
    model, weights, factors = scaled_convolution()
    image = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    diagonal = weights[range(3), range(3)].reshape(1, 3, 1, 1)
    expected = (image * diagonal) * factors
    assert (image * (diagonal * factors) != expected).any()
    if runs == "Session":
        found = Session(model, ["y"], as_written=True)({"image": image})["y"]
    else:
        found = ReferenceRunner(model, as_written=True).run({"image": image})["y"]
    np.testing.assert_array_equal(found, expected)


@pytest.fixture(params=[1, 3])
def threads(request, monkeypatch):
    monkeypatch.setattr(session_module, "usual_threads", lambda: request.param)
    return request.param


def test_results_of_many_feeds_come_in_their_order(threads):
    slow_first = [0.05, 0.0, 0.02, 0.0, 0.0]

    def run(index):
        time.sleep(slow_first[index])
        return index

    assert list(over(run, range(5))) == [0, 1, 2, 3, 4]


def test_no_more_feeds_are_taken_ahead_than_there_are_threads(threads):
    taken = []

    def feeds():
        for index in range(9):
            taken.append(index)
            yield index

    for index in over(lambda each: each, feeds()):
        assert len(taken) <= index + 1 + threads


def test_what_one_feed_raises_is_raised_in_its_turn(threads):
    found = over(lambda each: 1 // each, [1, 1, 0, 1])
    assert [next(found), next(found)] == [1, 1]
    with pytest.raises(ZeroDivisionError):
        next(found)


def test_the_numbers_do_not_depend_on_threads(monkeypatch):
    network = residual_network()
    recipe = Recipe(method="detptq", weight_bits=4, activation_bits=4, steps=Steps(adaptive_rounding=20))
    written = []
    for count in (1, 2):
        monkeypatch.setattr(session_module, "usual_threads", lambda count=count: count)
        model = quantize(network, Calibration.of(images(5)), recipe).model
        written.append(model.SerializeToString(deterministic=True))
    assert written[0] == written[1]
