"""What a detector is to whoever trains it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from aqd_deploy.detection.detectors import Detector
from aqd_deploy.qat.config import ModelConfig
from aqd_deploy.qat.heads import Head
from aqd_deploy.qat.resnet import ConvFactory

Loss = Callable[[ModelConfig, dict[str, Tensor], Tensor, Tensor], dict[str, Tensor]]


@dataclass(frozen=True)
class TrainedDetector:
    """The half of a detector that needs torch.

    - `detector`: what its outputs mean, the other half.
    - `head`: its head, of the configuration and of what makes inner and last convolutions.
    - `loss`: configuration, outputs by name, boxes float32 [N, M, 4] (x1, y1, x2, y2 in pixels) and labels
      int64 [N, M] (-1 where unused) of a batch to its losses by name. Assignment is part of it.
    - `geometry`: what its manifest says of it in the entry `detector`, besides what all say.
    """

    detector: type[Detector]
    head: Callable[[ModelConfig, ConvFactory, ConvFactory], Head]
    loss: Loss
    geometry: Callable[[ModelConfig], dict[str, Any]]
