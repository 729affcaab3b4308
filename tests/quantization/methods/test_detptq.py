"""`detptq` keeps for each tensor the power whose quantizer hurts the outputs the least."""

import json

import numpy as np
import pytest
from float_networks import images, residual_network

from aqd_deploy.densities import Points
from aqd_deploy.errors import ModelFileError
from aqd_deploy.integer.manifest import MANIFEST_KEY, SCHEMA
from aqd_deploy.quantization.calibration import Calibration
from aqd_deploy.quantization.lp_search import quantizers
from aqd_deploy.quantization.methods import method_named
from aqd_deploy.quantization.methods.detptq import POWERS, by_power
from aqd_deploy.quantization.network import Network
from aqd_deploy.quantization.output_loss import MeanSquare
from aqd_deploy.quantization.parts import Parts
from aqd_deploy.quantization.pipeline import quantize
from aqd_deploy.quantization.plan import Plan
from aqd_deploy.quantization.progress import Run
from aqd_deploy.quantization.recipe import Recipe
from aqd_deploy.quantization.session import Session
from aqd_deploy.quantization.state import State
from aqd_deploy.quantization.write_qdq import write_qdq

RECIPE = Recipe(method="detptq", weight_bits=3, activation_bits=3, first_bits=3, last_bits=3)


@pytest.fixture(scope="module")
def plan():
    return Plan.of(Network.of(residual_network()), RECIPE)


@pytest.fixture(scope="module")
def calibration():
    return Calibration.of(images(4))


@pytest.fixture(scope="module")
def chosen(plan, calibration):
    return method_named("detptq", {}).choose(plan, calibration, Run())


def loss_of(plan, quantizers_of, feeds):
    outputs = Parts(plan.network.model).outputs
    expected, found = (
        [Session(model, outputs)(feed) for feed in feeds]
        for model in (plan.network.model, write_qdq(plan.network, quantizers_of))
    )
    return MeanSquare().against(expected)(found)


def test_every_site_has_a_quantizer_of_its_bits(plan, chosen):
    assert list(chosen) == list(plan.sites)
    for site, quantizer in chosen.items():
        assert quantizer.bits == plan.bits[site]
        assert quantizer.scale.ndim == (1 if site.is_weight else 0)


@pytest.fixture(scope="module")
def uniform(plan, calibration):
    """The quantizers of one power throughout, and their loss, by power."""
    feeds = list(calibration.feeds())
    return {
        power: (each, loss_of(plan, each, feeds))
        for power, each in by_power(plan, calibration, Run()).items()
    }


@pytest.fixture(scope="module")
def start(uniform):
    return min(uniform.values(), key=lambda each: each[1])[0]


@pytest.mark.parametrize("weight", ["block.0.weight", "tower.weight"])
def test_a_weight_has_the_power_of_least_loss_among_what_is_quantized(
    plan, chosen, start, calibration, weight
):
    index, site = next((k, each) for k, each in enumerate(plan.sites) if each.tensor == weight)
    others = {**start, **{each: chosen[each] for each in plan.sites[:index]}}
    points = Points.of_weights(plan.network.array(weight), 0)
    tried = [start[site], *quantizers(points, plan.bits[site], True, POWERS, axis=0)]
    feeds = list(calibration.feeds())
    losses = [loss_of(plan, {**others, site: each}, feeds) for each in tried]
    np.testing.assert_array_equal(chosen[site].scale, tried[int(np.argmin(losses))].scale)


def test_no_power_for_all_has_less_loss(plan, chosen, uniform, calibration):
    # The float32 sums of a network that runs in parts round as those of the whole do, to 1e-5 of the loss.
    least = min(loss for _, loss in uniform.values())
    assert loss_of(plan, chosen, list(calibration.feeds())) <= least * (1 + 1e-5)


def test_each_power_is_what_mse_chooses(plan, uniform, calibration):
    for power in (1.0, 3.0):
        plain = method_named("mse", {"power": power}).choose(plan, calibration, Run())
        for site, quantizer in plain.items():
            np.testing.assert_array_equal(uniform[power][0][site].scale, quantizer.scale)


def test_all_in_all_it_beats_the_mean_square(plan, chosen, calibration):
    plain = method_named("mse", {"power": 2.0}).choose(plan, calibration, Run())
    unseen = images(8, seed=1)
    assert loss_of(plan, chosen, unseen) < loss_of(plan, plain, unseen)


def test_a_run_that_goes_on_chooses_the_same(plan, chosen, calibration, tmp_path):
    class Killed(Exception):
        pass

    def kill(progress):
        if progress.stage == "choosing" and progress.done == 4:
            raise Killed

    with pytest.raises(Killed):
        method_named("detptq", {}).choose(plan, calibration, Run(kill, state=State(tmp_path / "s", "key")))
    assert len(list((tmp_path / "s").glob("*.npz"))) >= 3
    run = Run(state=State(tmp_path / "s", "key"))
    again = method_named("detptq", {}).choose(plan, calibration, run)
    for site in plan.sites:
        np.testing.assert_array_equal(again[site].scale, chosen[site].scale)


def test_more_images_than_it_looks_at_change_nothing(plan, calibration):
    method = method_named("detptq", {"images": 2})
    found = [method.choose(plan, Calibration.of(images(4)[:n]), Run()) for n in (2, 4)]
    for site in plan.sites:
        np.testing.assert_array_equal(found[0][site].scale, found[1][site].scale)


def test_it_says_that_it_did_not_choose_by_the_detection_loss(plan, calibration):
    run = Run()
    method_named("detptq", {"images": 1}).choose(plan, calibration, run)
    assert any("chose by their mean square" in sentence for sentence in run.warnings)


def test_a_budget_that_is_used_up_leaves_the_usual_power(plan, calibration, uniform, chosen, tmp_path):
    run = Run(budget=0, state=State(tmp_path / "s", "key"))
    found = method_named("detptq", {}).choose(plan, calibration, run)
    for site in plan.sites:
        np.testing.assert_array_equal(found[site].scale, uniform[2.4][0][site].scale)
    assert any("the rest has p = 2.4" in sentence for sentence in run.warnings)
    again = method_named("detptq", {}).choose(plan, calibration, Run(state=State(tmp_path / "s", "key")))
    for site in plan.sites:
        np.testing.assert_array_equal(again[site].scale, chosen[site].scale)


def test_a_manifest_of_another_network_is_refused(calibration):
    model = residual_network()
    detector = {
        "kind": "retinanet", "classes": ["a"], "strides": [1], "score_threshold": 0.1, "nms_iou": 0.5,
        "max_detections": 9, "pre_nms": 9, "anchors": {"base": 4.0, "scales": [1.0], "ratios": [1.0]},
        "outputs": {"cls": ["fine"], "box": ["nowhere"]},
    }  # fmt: skip
    model.metadata_props.add(key=MANIFEST_KEY, value=json.dumps({"schema": SCHEMA, "detector": detector}))
    with pytest.raises(ModelFileError, match="nowhere"):
        quantize(model, calibration, RECIPE)
