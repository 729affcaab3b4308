"""Equalisation changes no function, evens ranges out, and leaves what it may not touch."""

import numpy as np
import pytest
from float_graphs import CONV3, chain, float_graph, pictures

from aqd_deploy.quantization.equalise import equalised
from aqd_deploy.quantization.network import Network
from aqd_deploy.quantization.session import Session

W1, W2 = (6, 3, 3, 3), (6, 6, 3, 3)


def uneven(model):
    """The network, each channel of its first weights of another size."""
    network = Network.of(model)
    factors = np.geomspace(0.01, 10, 6, dtype=np.float32).reshape(-1, 1, 1, 1)
    return network.with_arrays({"w1": network.array("w1") * factors})


def agree(first, second):
    names = [value.name for value in first.model.graph.output]
    sessions = [Session(each.model, names) for each in (first, second)]
    for feed in pictures(3).feeds():
        for a, b in zip(*(session(feed).values() for session in sessions), strict=True):
            # In float32, with factors up to 30.
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def spread(network, name, axis):
    sizes = np.abs(network.array(name)).max(axis=tuple(i for i in range(4) if i != axis))
    return sizes.max() / sizes.min()


BETWEEN = {
    "ReLU": "r = Relu(a)",
    "leaky ReLU": "r = LeakyRelu <alpha = 0.1> (a)",
    "pools": "p = MaxPool <kernel_shape = [2, 2]> (a) r = AveragePool <kernel_shape = [2, 2]> (p)",
}


@pytest.mark.parametrize("name", BETWEEN)
def test_two_layers(name):
    body = f"a = Conv {CONV3} (image, w1, b1) {BETWEEN[name]} y = Conv {CONV3} (r, w2)"
    network = uneven(float_graph(body, {"w1": W1, "b1": (6,), "w2": W2}))
    found, pairs = equalised(network)
    assert pairs == 1
    agree(network, found)
    np.testing.assert_allclose(
        np.abs(found.array("w1")).max(axis=(1, 2, 3)),
        np.abs(found.array("w2")).max(axis=(0, 2, 3)),
        rtol=1e-3,
    )
    assert spread(found, "w1", 0) < spread(network, "w1", 0) / 5


def test_a_chain_and_a_depthwise_layer():
    body = f"a = Conv {CONV3} (image, w1) r = Relu(a) " \
           "d = Conv <kernel_shape = [3, 3], group = 6> (r, w2) s = Relu(d) y = Conv (s, w3)"  # fmt: skip
    network = uneven(float_graph(body, {"w1": W1, "w2": (6, 1, 3, 3), "w3": (4, 6, 1, 1)}))
    found, pairs = equalised(network)
    assert pairs == 2
    agree(network, found)
    assert spread(found, "w1", 0) < spread(network, "w1", 0) / 5


def test_channels_of_zeros():
    network = uneven(chain())
    weights = network.array("w1").copy()
    weights[2] = 0
    network = network.with_arrays({"w1": weights})
    found, _ = equalised(network)
    assert np.isfinite(found.array("w2")).all()
    agree(network, found)


@pytest.mark.parametrize(
    "body",
    [
        f"a = Conv {CONV3} (image, w1) r = Relu(a) b = Conv {CONV3} (r, w2) y = Add(b, r)",
        f"a = Conv {CONV3} (image, w1) g = Sigmoid(a) y = Conv {CONV3} (g, w2)",
        f"a = Conv {CONV3} (image, w1) r = Clip(a, zero, six) y = Conv {CONV3} (r, w2)",
        f"a = Conv {CONV3} (image, w1) b = Conv {CONV3} (a, w2) r = Relu(b) y = Conv {CONV3} (r, w2)",
        f"a = Conv {CONV3} (image, w1) r = Relu(a) y = Conv <kernel_shape = [3, 3], group = 2> (r, w3)",
    ],
    ids=["a skip", "no homogeneous function", "ReLU6", "shared weights", "grouped"],
)
def test_left_alone(body):
    constants = {"zero": np.array(0, np.float32), "six": np.array(6, np.float32)}
    network = Network.of(float_graph(body, {"w1": W1, "w2": W2, "w3": (6, 3, 3, 3), **constants}))
    found, pairs = equalised(network)
    assert (found, pairs) == (network, 0)
