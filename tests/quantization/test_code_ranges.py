"""Which codes the layers of a file have, by the types of their quantizers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from qdq_graphs import QdqBuilder

from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.passes.canonical.draft import Draft
from aqd_deploy.quantization.layers import layers_of


def network(kind):
    """A convolution of an activation that is quantized to this type."""
    b = QdqBuilder()
    x = b.relu(b.conv(b.image(), 4, 8))
    scale = b.constant("step", np.array(0.5, np.float32))
    q = b.node("QuantizeLinear", [x, scale], b.shape[x], output_dtype=kind)
    b.output(b.conv(b.node("DequantizeLinear", [q, scale], b.shape[x]), 4, 4), "out")
    return onnx.shape_inference.infer_shapes(b.build())


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [(TensorProto.UINT8, 0, 255), (TensorProto.INT8, -128, 127), (TensorProto.UINT16, 0, 65535)],
)
def test_integers_have_the_range_of_their_type(kind, low, high):
    steps = layers_of(Draft(network(kind)))[1].activation
    assert (steps.low, steps.high) == (low, high)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E5M2])
def test_codes_of_float8_are_refused_by_their_type(kind):
    with pytest.raises(UnsupportedModelError, match=r"whose codes are no integers.*float8") as caught:
        layers_of(Draft(network(kind)))
    assert "uint8" in caught.value.valid
