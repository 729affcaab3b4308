"""Bits of each layer under a goal."""

import itertools

import pytest
from float_networks import images, residual_network

from aqd_deploy import targets
from aqd_deploy.errors import RecipeError
from aqd_deploy.passes.pipeline import lower
from aqd_deploy.quantization.calibration import Calibration
from aqd_deploy.quantization.network import Network
from aqd_deploy.quantization.pipeline import quantize
from aqd_deploy.quantization.progress import Run
from aqd_deploy.quantization.recipe import Recipe
from aqd_deploy.workflow.bit_widths import BitWidths
from aqd_deploy.workflow.search import BITS, Goal, good_enough, search, steps_down
from aqd_deploy.workflow.search_quality import Judge


@pytest.fixture(scope="module")
def network():
    return residual_network()


@pytest.fixture(scope="module")
def calibration():
    return Calibration.of(images(16))


@pytest.fixture(scope="module")
def networks(network, calibration):
    return BitWidths(Network.of(network), Recipe(), (4, 8), calibration, Run())


def test_layers_of_one_weight_are_one_unit(networks):
    assert [unit.layers for unit in networks.units][-2:] == [
        ("tower.fine", "tower.coarse"),
        ("head.fine", "head.coarse"),
    ]


def test_a_uniform_mixture_is_what_quantize_writes(network, calibration, networks):
    recipe = Recipe(weight_bits=4, activation_bits=4, first_bits=4, last_bits=4)
    expected = quantize(network, calibration, recipe).model
    assert networks.model(networks.everywhere(4)).graph == expected.graph


def test_one_quantized_layer_leaves_the_others_float(networks):
    model = networks.model({"block.0.weight": 4})
    quantizers = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert len(quantizers) == 1
    readers = {node.name for node in model.graph.node if node.op_type == "Conv"
               and any(name.endswith("_real") for name in node.input)}  # fmt: skip
    assert readers == {"block.0"}


def test_steps_take_what_saves_most_for_its_loss_first(networks):
    units = [unit.weight for unit in networks.units]
    loss = {(unit, bits): (8 - bits) * (1.0 + i) for i, unit in enumerate(units) for bits in (4, 8)}
    cost = {(unit, bits): float(bits) for unit in units for bits in (4, 8)}
    path = steps_down(networks, loss, cost)
    narrowed = [
        next(unit for unit in units if after[unit] < before[unit])
        for before, after in itertools.pairwise(path)
    ]
    assert narrowed == units


def test_a_step_that_saves_nothing_is_not_taken(networks):
    units = [unit.weight for unit in networks.units]
    loss = {(unit, bits): 0.0 for unit in units for bits in (4, 8)}
    cost = {(unit, bits): 1.0 for unit in units for bits in (4, 8)}
    assert steps_down(networks, loss, cost) == [networks.everywhere(8)]


def test_a_limit_of_megabytes(network, calibration):
    found = search(network, calibration, Recipe(), Goal.MB, 0.0012, target=None)
    document = found.document
    assert document["total"]["megabytes"] <= 0.0012 < document["uniform"]["8"]["megabytes"]
    bits = {row["layer"]: row["bits"] for row in document["layers"]}
    assert len(set(bits.values())) > 1 and set(bits.values()) <= set(BITS)
    assert all(set(row["sensitivity"]) == {str(each) for each in BITS} for row in document["layers"])
    result = quantize(network, calibration, found.recipe)
    told = {row["layer"]: row["weight_bits"] for row in result.report["layers"]}
    assert all(told[name] == row["bits"] for row in document["layers"] for name in row["layers"])
    assert lower(result.model).report["float_tensors"] == 0


def test_a_drop_by_the_milliseconds_of_a_profile(network, calibration, monkeypatch):
    monkeypatch.setattr("aqd_deploy.workflow.search.BITS", (4, 8))
    target = targets.get("raspberrypi-4")
    found = search(network, calibration, Recipe(), Goal.DROP, 0.05, target=target)
    document = found.document
    assert document["judged_by"] == "mean square of the outputs"
    assert document["milliseconds_from"].endswith("1.5 GHz of raspberrypi-4")
    assert document["total"]["drop"] <= 0.05
    assert document["total"]["ms"] <= document["uniform"]["8"]["ms"]


def test_limits_that_cannot_be_met(network, calibration):
    with pytest.raises(RecipeError, match="no bits of layers bring the network to 1e-06 MB"):
        search(network, calibration, Recipe(), Goal.MB, 1e-6, target=None)


def test_a_drop_that_the_widest_network_has(networks, network, calibration):
    judge = Judge(networks.network.model, calibration)
    with pytest.raises(RecipeError, match="even 8 bits everywhere lose more"):
        good_enough(networks, judge, [networks.everywhere(8)], 1e-9, Run())
