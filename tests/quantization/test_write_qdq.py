"""The QDQ file: what onnxruntime makes of it are the quantizers' own numbers."""

import json

import numpy as np
import pytest
from float_graphs import CONV3, chain, float_graph, pictures
from onnx import numpy_helper

from aqd_deploy.integer.manifest import read_manifest
from aqd_deploy.quantization.network import Network
from aqd_deploy.quantization.plan import Plan
from aqd_deploy.quantization.quantizer import QuantizerParameters, from_range, weights_up_to
from aqd_deploy.quantization.recipe import Recipe, from_document
from aqd_deploy.quantization.session import Session
from aqd_deploy.quantization.write_qdq import write_qdq

PLAN = Plan.of(Network.of(chain()), Recipe())
SITES = {site.tensor: site for site in PLAN.sites}


@pytest.mark.parametrize("bits", [2, 3, 4, 7, 8])
@pytest.mark.parametrize("signed", [False, True])
def test_activations(bits, signed):
    quantizer = from_range(-0.7, 0.9, bits, signed)
    written = write_qdq(PLAN.network, {SITES["image"]: quantizer})
    kinds = [node.op_type for node in written.graph.node][:3]
    assert kinds[:2] == ["QuantizeLinear", "DequantizeLinear" if bits == 8 else "Clip"]
    name = f"image_q{bits}_real"
    for feed in pictures(2).feeds():
        real = Session(written, [name])(feed)[name]
        np.testing.assert_array_equal(real, quantizer.rounded(feed["image"]))


@pytest.mark.parametrize("axis", [0, None])
def test_weights(axis):
    weights = PLAN.network.array("w2")
    limits = np.abs(weights).max(axis=(1, 2, 3)) if axis == 0 else np.abs(weights).max()
    quantizer = weights_up_to(limits, 3)
    written = write_qdq(PLAN.network, {SITES["w2"]: quantizer})
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in written.graph.initializer}
    assert constants["w2"].dtype == np.int8 and abs(constants["w2"]).max() <= 4
    real = Session(written, ["w2_real"])({"image": np.zeros((1, 3, 8, 8), np.float32)})["w2_real"]
    np.testing.assert_array_equal(real, quantizer.rounded(weights, axis))


def test_codes_of_others_are_taken():
    quantizer = QuantizerParameters(np.array(0.5, np.float32), 4, True)
    codes = np.full((8, 6, 3, 3), -3)
    written = write_qdq(PLAN.network, {SITES["w2"]: quantizer}, {SITES["w2"]: codes})
    (found,) = [tensor for tensor in written.graph.initializer if tensor.name == "w2"]
    np.testing.assert_array_equal(numpy_helper.to_array(found), codes)


def test_only_the_readers_of_a_site_read_codes():
    written = write_qdq(PLAN.network, {SITES["r"]: from_range(0, 1, 4, False)})
    reads = {node.output[0]: list(node.input) for node in written.graph.node}
    assert reads["b"][:2] == ["r_q4_real", "w2"]
    assert reads["y"][0] == "s"


def test_the_recipe_is_in_the_manifest():
    recipe = Recipe(weight_bits=4, excluded=("b",))
    written = write_qdq(PLAN.network, {}, recipe=recipe)
    entry = read_manifest(written)["quantization"]
    assert from_document(json.loads(json.dumps(entry))) == recipe


def test_a_weight_that_a_float_layer_reads_as_well_stays_for_it():
    body = f"a = Conv {CONV3} (image, w1) b = Conv {CONV3} (a, w2) y = Conv {CONV3} (b, w2)"
    model = float_graph(body, {"w1": (6, 3, 3, 3), "w2": (6, 6, 3, 3)})
    plan = Plan.of(Network.of(model), Recipe(excluded=("y",)))
    (site,) = [site for site in plan.sites if site.tensor == "w2"]
    written = write_qdq(plan.network, {site: weights_up_to(np.array(1.0), 8)})
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in written.graph.initializer}
    assert (constants["w2"].dtype, constants["w2_codes"].dtype) == (np.float32, np.int8)
    assert Session(written, ["y"])(next(pictures(1).feeds()))["y"].shape == (1, 6, 8, 8)
