"""How far the outputs of a quantized network are from those of the float one."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto

from aqd_deploy.quantization.calibration import Calibration
from aqd_deploy.quantization.progress import Run
from aqd_deploy.quantization.session import Session

IMAGES = 8
"""So many show which of two variants is nearer."""


def output_error(real: ModelProto, quantized: ModelProto, calibration: Calibration, run: Run) -> float:
    """The mean over all outputs of Σ(quantized − float)² / Σ float², over the first images."""
    names = [value.name for value in real.graph.output]
    sessions = [Session(model, names) for model in (real, quantized)]
    noise, signal = np.zeros(len(names)), np.zeros(len(names))
    images = calibration.first(IMAGES)
    for feed in run.counted("output error", images.feeds(), len(images)):
        first, second = (session(feed) for session in sessions)
        for index, name in enumerate(names):
            x, y = (outputs[name].astype(np.float64) for outputs in (first, second))
            noise[index] += ((x - y) ** 2).sum()
            signal[index] += (x**2).sum()
    return float((noise / np.maximum(signal, np.finfo(np.float64).tiny)).mean())
