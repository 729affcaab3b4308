"""How far the outputs of a quantized network are from those of the float one."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto

from aqd_deploy.quantization.calibration import Calibration
from aqd_deploy.quantization.plan import Plan
from aqd_deploy.quantization.progress import Run
from aqd_deploy.quantization.session import Session, over

IMAGES = 8
"""So many show which of two variants is nearer."""


def output_error(plan: Plan, quantized: ModelProto, calibration: Calibration, run: Run) -> float:
    """The mean over the last layers' outputs of Σ(quantized − float)² / Σ float², over the first images.

    Not of the network's own outputs: what is behind the last layers may find other boxes, or fewer.
    """
    names = plan.placement.ends
    real, rounded = (Session(model, names, threads=1) for model in (plan.network.model, quantized))
    noise, signal = np.zeros(len(names)), np.zeros(len(names))
    images = calibration.first(IMAGES)
    pairs = over(lambda feed: (real(feed), rounded(feed)), images.feeds())
    for first, second in run.counted("output error", pairs, len(images)):
        for index, name in enumerate(names):
            x, y = (outputs[name].astype(np.float64) for outputs in (first, second))
            noise[index] += ((x - y) ** 2).sum()
            signal[index] += (x**2).sum()
    return float((noise / np.where(signal > 0, signal, 1)).mean())
