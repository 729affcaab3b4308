"""Quantizers that cannot be lowered."""

import numpy as np
import pytest
from canonical_meaning import canonical
from small_files import FileBuilder

from aqd_deploy.errors import ScaleError, UnsupportedModelError


def refused(b, output, error=UnsupportedModelError):
    with pytest.raises(error) as caught:
        canonical(b.model(output))
    assert caught.value.valid and "quantize" in caught.value.next_command
    return str(caught.value)


def test_case_1_dynamic_quantization():
    b = FileBuilder()
    b.node("DynamicQuantizeLinear", ["image"], "q", "s", "z")
    y = b.node("ConvInteger", ["q", b.constant("w", np.ones((4, 4, 1, 1), np.int8)), "z"])
    y = b.node("Mul", [b.node("Cast", [y], to=1), "s"])
    text = refused(b, y)
    assert "dynamic quantization" in text and "DynamicQuantizeLinear, ConvInteger" in text
    assert "quantize FILE --calibration DIR -o OUT, which keeps the weights" in text


def test_case_1_a_scale_computed_by_nodes():
    b = FileBuilder()
    scale = b.node("ReduceMax", ["image"], keepdims=0)
    q = b.node("QuantizeLinear", ["image", scale, b.constant("z", np.uint8(3))])
    assert "dynamic quantization" in refused(b, b.conv(b.node("DequantizeLinear", [q, scale, "z"])))


def test_case_2_activations_of_16_bits():
    b = FileBuilder(opset=21, ir_version=10)
    x = b.quantize("image", 0.001, np.uint16(7))
    y = b.quantize(b.conv(x), 0.01, np.int16(0))
    assert "16 bits: t0, t4" in refused(b, b.conv(y))


def test_case_3_an_infinite_scale_with_its_usual_cause():
    b = FileBuilder()
    pads = b.constant("pads", np.array([0, 0, 1, 1, 0, 0, 1, 1]))
    x = b.node("Pad", [b.conv(b.quantize("image")), pads, b.constant("low", np.float32(-np.inf))])
    y = b.node("MaxPool", [b.quantize(x, np.inf)], kernel_shape=[3, 3])
    text = refused(b, b.conv(y), ScaleError)
    assert "infinity" in text and "Pad of -inf" in text


def test_case_4_a_float_network():
    b = FileBuilder()
    y = b.node("Relu", [b.node("Conv", ["image", b.constant("w", np.ones((4, 4, 1, 1), np.float32))])])
    text = refused(b, y)
    assert "no quantizers" in text and "aqd-deploy quantize FILE --calibration DIR" in text


def test_case_5_codes_between_codes():
    b = FileBuilder()
    names = b.scale(0.1, np.uint8(3))
    by = b.constant("by", np.array([1, 1, 2, 2], np.float32))
    q = b.node("Resize", [b.node("QuantizeLinear", ["image", *names]), "", by], mode="linear")
    assert "codes are interpolated" in refused(b, b.conv(b.node("DequantizeLinear", [q, *names])))
