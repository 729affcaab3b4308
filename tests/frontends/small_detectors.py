"""Small detectors, and onnxruntime as a function, for the frontends' tests."""

from __future__ import annotations

import numpy as np
import onnxruntime
from onnx import ModelProto

from aqd_deploy.qat.config import ModelConfig, parse_architecture

SIDE = 64


def small_config(architecture: str = "fcos_r18", bits: int | None = 4, **changes) -> ModelConfig:
    """A detector of the full topology at an eighth of the width, 64 x 64."""
    settings = {"width": 0.125, "fpn_channels": 16, "head_depth": 1, "classes": 3} | changes
    return parse_architecture(architecture, bits=bits, image_height=SIDE, image_width=SIDE, **settings)


def run_onnx(model: ModelProto, image: np.ndarray) -> dict[str, np.ndarray]:
    """The outputs of onnxruntime by name."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"image": image}), strict=True))
