"""Bits of each layer under a goal."""

import itertools

import pytest
from float_networks import images, residual_network

from aqd_deploy import targets
from aqd_deploy.compiler.planning import plan_model
from aqd_deploy.errors import RecipeError, RecordsError
from aqd_deploy.kernels.contract.choice import Choice
from aqd_deploy.passes.pipeline import lower
from aqd_deploy.quantization.calibration import Calibration
from aqd_deploy.quantization.network import Network
from aqd_deploy.quantization.pipeline import quantize
from aqd_deploy.quantization.progress import Run
from aqd_deploy.quantization.recipe import Recipe
from aqd_deploy.records.file import ACCEPTED, Header, Record, RecordsFile
from aqd_deploy.records.lookup import Tuned, load_tuned
from aqd_deploy.tuning.tune import device_tasks
from aqd_deploy.workflow.bit_widths import BitWidths
from aqd_deploy.workflow.search import BITS, Goal, good_enough, search, steps_down
from aqd_deploy.workflow.search_costs import costs_of
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


def record(folder, networks, bits, seconds):
    """A record for every task of the network at this width."""
    device = targets.get("host")
    plan = plan_model(lower(networks.model(networks.everywhere(bits))).model)
    with RecordsFile(folder, Header.here(device), device) as file:
        for use in device_tasks(plan, device, 1):
            key = use.task.key
            file.define(key, use.task.shape_key, use.task.to_json())
            file.add(Record(key, Choice.of("blocked", rows=1), ACCEPTED, seconds))
    return folder


def test_times_are_those_of_records(networks, tmp_path):
    device = targets.get("host")
    record(tmp_path, networks, 8, 0.002)
    record(tmp_path, networks, 4, 0.003)
    costs = costs_of(networks, device, 1, Run(), load_tuned(tmp_path, device))
    found = {key: costs.milliseconds[key] for key in ((u.weight, b) for u in networks.units for b in (4, 8))}
    for unit in networks.units:
        # A unit's layers that are several maps of one call are one kernel.
        calls = {found[unit.weight, 8] / 2, found[unit.weight, 4] / 3}
        assert len({round(each, 9) for each in calls}) == 1 and min(calls) >= 1 - 1e-9
    assert costs.told.startswith("records of") and "cost model" not in costs.told


def test_what_has_no_record_is_on_the_scale_of_what_has(networks, tmp_path):
    device = targets.get("host")
    tuned = load_tuned(record(tmp_path, networks, 8, 0.002), device)
    costs = costs_of(networks, device, 1, Run(), tuned)
    assert costs.told.endswith("the others by the cost model on their scale")
    totals = [costs.total(costs.milliseconds, networks.everywhere(bits)) for bits in (4, 8)]
    # Few bits never cost thrice as much, nor a tenth.
    assert totals[1] / 10 < totals[0] < 3 * totals[1]


def test_records_of_another_network_are_refused(networks):
    with pytest.raises(RecordsError, match="none of the network's convolutions"):
        costs_of(networks, targets.get("host"), 1, Run(), Tuned())


def test_limits_that_cannot_be_met(network, calibration):
    with pytest.raises(RecipeError, match="no bits of layers bring the network to 1e-06 MB"):
        search(network, calibration, Recipe(), Goal.MB, 1e-6, target=None)


def test_a_drop_that_the_widest_network_has(networks, network, calibration):
    judge = Judge(networks.network.model, calibration)
    with pytest.raises(RecipeError, match="even 8 bits everywhere lose more"):
        good_enough(networks, judge, [networks.everywhere(8)], 1e-9, Run())
