"""Parts of a network make of what is there what the whole network makes."""

import numpy as np
import onnx
import pytest
from float_networks import images, residual_network

from aqd_deploy.quantization.network import Network
from aqd_deploy.quantization.parts import Parts
from aqd_deploy.quantization.placement import Reader
from aqd_deploy.quantization.session import Session


@pytest.fixture(scope="module")
def network():
    return Network.of(residual_network())


def readers_of(network, tensor):
    return [
        Reader(node.output[0], index)
        for node in network.model.graph.node
        for index, name in enumerate(node.input)
        if name == tensor
    ]


def test_what_is_there_is_what_is_read_later(network):
    parts = Parts(network.model)
    first, second = network.layers[:2]
    assert parts.live(readers_of(network, first.weight)) == [first.input]
    there = parts.live(readers_of(network, second.weight))
    assert second.input in there and "image" not in there
    assert not set(there) & {layer.weight for layer in network.layers}


def test_a_part_makes_what_the_network_makes(network):
    parts, feeds = Parts(network.model), images(3)
    whole = [Session(network.model, parts.outputs)(feed) for feed in feeds]
    there = feeds
    for weight in dict.fromkeys(layer.weight for layer in network.layers):
        there = parts.run(network.model, parts.live(readers_of(network, weight)), there)
        for expected, found in zip(whole, parts.run(network.model, parts.outputs, there), strict=True):
            for name in parts.outputs:
                np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-5)


def test_what_is_in_front_does_not_run_again(network):
    parts = Parts(network.model)
    last = network.layers[-1]
    there = parts.run(network.model, parts.live(readers_of(network, last.weight)), images(1))
    broken = onnx.ModelProto()
    broken.CopyFrom(network.model)
    for tensor in broken.graph.initializer:
        if tensor.name == network.layers[0].weight:
            tensor.raw_data = np.full(tensor.dims, np.nan, np.float32).tobytes()
    (found,) = parts.run(broken, parts.outputs, there)
    assert all(np.isfinite(value).all() for value in found.values())


def test_tensors_that_are_there_already_are_passed_on(network):
    feeds = images(2)
    found = Parts(network.model).run(network.model, ["image"], feeds)
    for feed, each in zip(feeds, found, strict=True):
        np.testing.assert_array_equal(each["image"], feed["image"])


def test_what_constants_do_not_change_runs_once_for_all_of_them(network, monkeypatch):
    sessions = []

    def session(model, wanted, threads):
        run = Session(model, wanted, threads=threads)
        sessions.append((len(model.graph.node), runs := []))
        return lambda feed: runs.append(wanted) or run(feed)

    monkeypatch.setattr("aqd_deploy.quantization.parts.Session", session)
    parts, feeds, weight = Parts(network.model), images(2), network.layers[-1].weight
    values = [{weight: network.array(weight) * factor} for factor in (1, 2, 3)]
    found = list(parts.runs(network.model, parts.outputs, feeds, values))
    for constants, outputs in zip(values, found, strict=True):
        whole = Session(network.with_arrays(constants).model, parts.outputs)
        for feed, each in zip(feeds, outputs, strict=True):
            for name, expected in whole(feed).items():
                # Float32, in another order where onnxruntime joins other operators.
                np.testing.assert_allclose(each[name], expected, rtol=1e-4, atol=1e-5)
    (front, once), (behind, often) = sessions
    assert (len(once), len(often)) == (2, 6)
    assert behind < front and front + behind == len(network.model.graph.node)
