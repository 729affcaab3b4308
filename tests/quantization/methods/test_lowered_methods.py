"""What every method writes is lowered, and each code of the integer file is the one that the file means."""

import numpy as np
import pytest
from float_networks import float_images, float_input_network, images, residual_network
from island_agreement import assert_islands_agree
from onnx import numpy_helper

from aqd_deploy.passes.pipeline import lower
from aqd_deploy.quantization.calibration import Calibration
from aqd_deploy.quantization.methods import METHODS
from aqd_deploy.quantization.pipeline import quantize
from aqd_deploy.quantization.recipe import Recipe, Steps


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bits", [3, 4, 8])
def test_codes_are_equal(method, bits):
    recipe = Recipe(method=method, weight_bits=bits, activation_bits=bits)
    written = quantize(residual_network(), Calibration.of(images(4)), recipe).model
    assert_islands_agree(written)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("symmetric", [False, True])
def test_values_of_both_signs_have_signed_codes_or_a_zero_point(method, symmetric):
    recipe = Recipe(method=method, weight_bits=4, activation_bits=4, symmetric=symmetric)
    written = quantize(residual_network(), Calibration.of(images(4)), recipe).model
    zeros = {tensor.name: numpy_helper.to_array(tensor) for tensor in written.graph.initializer}
    (zero,) = (
        zeros[node.input[2]]
        for node in written.graph.node
        if node.op_type == "QuantizeLinear" and node.input[0] == "block.0"
    )
    assert (zero.dtype == np.int8 and zero == 0) if symmetric else (zero.dtype == np.uint8 and 0 < zero < 15)
    assert_islands_agree(written)


@pytest.mark.parametrize("method", METHODS)
def test_an_input_of_floats_has_a_quantizer_too(method):
    steps = Steps(adaptive_rounding=50)
    recipe = Recipe(method=method, weight_bits=4, activation_bits=4, steps=steps)
    result = quantize(float_input_network(), Calibration.of(float_images(4)), recipe)
    assert "image" in [n.input[0] for n in result.model.graph.node if n.op_type == "QuantizeLinear"]
    assert lower(result.model).report["float_tensors"] == 0
    assert result.report["output_error"] < 0.05


def test_codes_are_equal_after_adaptive_rounding():
    recipe = Recipe(method="mse", weight_bits=4, activation_bits=4, steps=Steps(adaptive_rounding=100))
    result = quantize(residual_network(), Calibration.of(images(4)), recipe)
    assert_islands_agree(result.model)
    (step,) = result.report["steps"]
    assert step["step"] == "adaptive_rounding" and step["changed"] == 5
    assert np.isfinite(step["error_after"]) and step["error_after"] < 1
