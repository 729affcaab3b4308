"""The float network taken out of a QDQ file."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from onnx import TensorProto
from small_detectors import run_onnx, small_config

torch = pytest.importorskip("torch")

from aqd_deploy.errors import UnsupportedModelError  # noqa: E402
from aqd_deploy.frontends.random_network import random_detector  # noqa: E402
from aqd_deploy.frontends.strip import strip_quantization  # noqa: E402
from aqd_deploy.frontends.torch_qdq import export_qdq  # noqa: E402
from aqd_deploy.qat.layers import QuantConv2d  # noqa: E402

# Folding batch norm changes the order of float32 roundings: 1e-4 of the largest value is far above that and
# far below
# what a missing factor or a missing mean would do.
FOLDING = 1e-4


@pytest.mark.parametrize(
    ("architecture", "bits"), [("fcos_r18", 4), ("retinanet_r50", 8), ("fcos_r18", None)]
)
def test_same_numbers_as_torch_without_activation_quantizers(architecture, bits, image):
    model = random_detector(small_config(architecture, bits))
    stripped = strip_quantization(export_qdq(model))
    for module in model.modules():
        if isinstance(module, QuantConv2d):
            module.activation_quantizer = None
    pixels = model.preprocess(torch.from_numpy(image))
    with torch.no_grad():
        expected = model(pixels)
    found = run_onnx(stripped, pixels.numpy())
    assert set(found) == set(expected)
    for name, value in found.items():
        largest = max(1.0, float(expected[name].abs().max()))
        np.testing.assert_allclose(value, expected[name].numpy(), atol=FOLDING * largest, rtol=0)


def test_nothing_of_the_quantization_is_left():
    stripped = strip_quantization(export_qdq(random_detector(small_config("fcos_r18", 8))))
    operators = Counter(node.op_type for node in stripped.graph.node)
    assert not {"QuantizeLinear", "DequantizeLinear", "Clip", "BatchNormalization"} & set(operators)
    assert stripped.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
    assert {t.data_type for t in stripped.graph.initializer} == {TensorProto.FLOAT}
    read = {name for node in stripped.graph.node for name in node.input}
    assert {tensor.name for tensor in stripped.graph.initializer} <= read


def test_the_model_is_not_changed():
    qdq = export_qdq(random_detector(small_config()))
    before = qdq.SerializeToString(deterministic=True)
    strip_quantization(qdq)
    assert qdq.SerializeToString(deterministic=True) == before


def test_a_file_that_is_no_canonical_qdq_is_refused():
    qdq = export_qdq(random_detector(small_config()))
    with pytest.raises(UnsupportedModelError, match="canonical"):
        strip_quantization(strip_quantization(qdq))
