"""The network in onnxruntime: optimized, or with the arithmetic that is written in the file."""

import numpy as np
import pytest
from float_graphs import float_graph

from aqd_deploy.integer.reference import ReferenceRunner
from aqd_deploy.quantization.session import Session

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
