"""Float networks as text, with random weights: what quantization is tested on."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import ModelProto, numpy_helper

from aqd_deploy.quantization.calibration import Calibration

SIZE = 8
CONV3 = "<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>"
"""A convolution that keeps the size."""


def float_graph(
    body: str,
    weights: dict[str, tuple[int, ...] | np.ndarray],
    outputs: str = "y",
    seed: int = 0,
    channels: int = 3,
) -> ModelProto:
    """A network of `image` float32 [1, channels, 8, 8]; `weights` are shapes of random numbers, or constants,
    by name; `outputs` names.
    """
    rng = np.random.default_rng(seed)
    told = ", ".join(f"float {name}" for name in outputs.split())
    text = f"""
    <ir_version: 9, opset_import: ["": 17]>
    network (float[1, {channels}, {SIZE}, {SIZE}] image) => ({told}) {{ {body} }}
    """
    model = onnx.parser.parse_model(text)
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    for name, given in weights.items():
        values = given
        if isinstance(given, tuple):
            fan = max(int(np.prod(given[1:])), 1)
            values = (rng.normal(size=given) / np.sqrt(fan)).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    onnx.checker.check_model(inferred)
    return inferred


def pictures(count: int = 20, seed: int = 0, channels: int = 3, name: str = "image") -> Calibration:
    """Float images in [-1, 1]."""
    rng = np.random.default_rng(seed)
    return Calibration.of(
        [{name: rng.uniform(-1, 1, (1, channels, SIZE, SIZE)).astype(np.float32)} for _ in range(count)]
    )


def chain(seed: int = 0) -> ModelProto:
    """Three convolutions with ReLUs between them."""
    body = f"""
    a = Conv {CONV3} (image, w1, b1)  r = Relu(a)
    b = Conv {CONV3} (r, w2, b2)      s = Relu(b)
    y = Conv {CONV3} (s, w3)
    """
    shapes = {"w1": (6, 3, 3, 3), "b1": (6,), "w2": (8, 6, 3, 3), "b2": (8,), "w3": (4, 8, 3, 3)}
    return float_graph(body, shapes, seed=seed)
