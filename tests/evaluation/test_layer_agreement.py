"""Agreement layer by layer, on graphs whose differences are known."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from qdq_graphs import plain_graph, random_graph, random_image

from aqd_deploy.errors import AqdError, ModelFileError
from aqd_deploy.evaluation.layer_agreement import layer_agreement
from aqd_deploy.evaluation.lowered import Lowered, Stands
from aqd_deploy.evaluation.tensor_difference import Difference
from aqd_deploy.passes.pipeline import lower


def agreement(model, seed=0, numerics="exact"):
    lowered = Lowered.of(model, numerics)
    return layer_agreement(lowered, [{"image": random_image(model, seed)}])


@pytest.mark.parametrize("seed", range(4))
def test_without_skip_adds_no_code_differs_anywhere(seed):
    found = agreement(plain_graph(seed), seed)
    assert found.totals["alone"]["differing"] == found.totals["accumulated"]["differing"] == 0
    assert found.totals["accumulated"]["count"] > 0
    assert not found.skip_adds
    assert [row.name for row in found.layers if row.head]
    assert all(row.proven == row.channels for row in found.layers)


@pytest.mark.parametrize("seed", range(100, 106))
def test_errors_of_skip_adds_are_within_their_bounds(seed):
    """2^-20 of a step is for float64, in which the exact value is computed."""
    found = agreement(random_graph(seed, bits=(2, 3, 4)[seed % 3]), seed)
    assert found.skip_adds
    for row in found.skip_adds:
        assert row.seen_steps is not None
        assert row.seen_steps <= row.bound_steps + 2**-20
        assert row.own_bound_steps <= row.bound_steps


def test_paper_numerics_decides_otherwise():
    """On this graph and image; `exact` does not. Behind the first layers that differ others do as well."""
    model = random_graph(2, bits=4)
    exact, paper = (agreement(model, 2, mode).totals for mode in ("exact", "paper"))
    assert exact["accumulated"]["differing"] == 0
    assert 0 < paper["alone"]["differing"] < paper["accumulated"]["differing"]


def broken(lowered, row):
    """The same, with another constant in the first requantization of `row`: its codes are one higher."""
    (name,) = [
        name for name in row.tensors if f"{name}_B" in {t.name for t in lowered.integer.graph.initializer}
    ]
    node = next(node for node in lowered.integer.graph.node if node.output[0] == name)
    tensors = {tensor.name: tensor for tensor in lowered.integer.graph.initializer}
    added = numpy_helper.to_array(tensors[node.input[2]]) + (
        1 << numpy_helper.to_array(tensors[node.input[3]]).astype(np.int64)
    )
    tensors[node.input[2]].CopyFrom(numpy_helper.from_array(added, node.input[2]))
    return name


def test_a_wrong_layer_is_found_alone_and_those_behind_it_only_accumulated():
    model = plain_graph(1, bits=4)
    lowered = Lowered.of(model)
    feeds = [{"image": random_image(model, 1)}]
    rows = [row for row in layer_agreement(lowered, feeds).layers if row.channels and len(row.tensors) == 1]
    broken(lowered, rows[0])
    found = {row.name: row for row in layer_agreement(lowered, feeds).layers}
    first = found[rows[0].name]
    assert first.alone["differing"] > 0 and first.alone["largest"] == 1
    others = [row for name, row in found.items() if name != first.name and not row.head and row.tensors]
    assert all(row.alone["differing"] == 0 for row in others)
    assert any(row.accumulated["differing"] > 0 for row in others)


def test_rows_have_the_arithmetic_of_their_convolutions():
    model = plain_graph(2, bits=4)
    found = agreement(model)
    lowered = Lowered.of(model)
    convolutions = [row for row in found.layers if row.macs]
    assert len(convolutions) == sum(node.op.startswith("Conv") for node in lowered.graph.nodes)
    assert {row.weight_bits for row in convolutions} == {4, 8}
    told = found.told()
    assert told["layer_agreement"]["images"] == 1
    assert all(entry["proven_share"] in (1.0, None) for entry in told["layers"])


def test_no_images_and_a_file_of_another_network_are_refused():
    lowered = Lowered.of(plain_graph(0))
    with pytest.raises(AqdError, match="no images"):
        layer_agreement(lowered, [])
    other = lower(plain_graph(1)).model
    with pytest.raises(ModelFileError, match="not what lowering makes"):
        Lowered.of(plain_graph(0), integer=other)
    assert Lowered.of(plain_graph(0), integer=onnx.ModelProto.FromString(lowered.integer.SerializeToString()))


def test_differences_by_hand():
    """η = 1, 4, 7 of scale 0.5 and offset 1 stand for 1.5, 3 and 4.5; the reals make η 1.2, 4.6 and 7."""
    stands = Stands("y_int", "y", False, np.array([0.5]), np.array([1.0]))
    integers = np.array([1, 4, 7], np.int32).reshape(1, 1, 1, 3)
    found = Difference.of(stands, integers, np.array([1.6, 3.3, 4.5]).reshape(1, 1, 1, 3))
    told = found.told()
    assert (told["differing"], told["count"], told["largest"]) == (1, 3, 0.6)
    # Signal 2.56 + 10.89 + 20.25, noise 0.01 + 0.09.
    assert told["snr_db"] == pytest.approx(10 * np.log10(33.7 / 0.1))
    codes = Stands("q", "q", True, np.ones(1), np.zeros(1))
    again = Difference.of(codes, integers, integers + np.array([0, 2, 0]))
    found.join(again)
    assert (found.differing, found.count, found.largest) == (2, 6, 2.0)
    equal = Difference.of(codes, integers, integers)
    assert equal.told()["snr_db"] is None


def test_a_constant_channel_never_differs():
    stands = Stands("y_int", "y", False, np.array([0.0, 1.0]), np.array([3.0, 0.0]))
    integers = np.array([5, 2], np.int32).reshape(1, 2, 1, 1)
    found = Difference.of(stands, integers, np.array([3.0, 2.0]).reshape(1, 2, 1, 1))
    assert (found.differing, found.largest, found.noise.noise) == (0, 0.0, 0.0)
