"""The detectors that are trained here, by name: head, loss and what their manifests say.

To add one: a module with its `TrainedDetector`, and its line in `TRAINED`. What its outputs mean stands in
`aqd_deploy.detection.detectors`, which does without torch.
"""

from __future__ import annotations

from torch import Tensor

from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.qat.config import ModelConfig
from aqd_deploy.qat.detectors.contract import TrainedDetector
from aqd_deploy.qat.detectors.fcos import FCOS
from aqd_deploy.qat.detectors.retinanet import RETINANET
from aqd_deploy.qat.detectors.yolov2 import YOLOV2

TRAINED: dict[str, TrainedDetector] = {
    FCOS.detector.name: FCOS,
    RETINANET.detector.name: RETINANET,
    YOLOV2.detector.name: YOLOV2,
}


def trained_detector(config: ModelConfig) -> TrainedDetector:
    """The detector of a configuration. Raises UnsupportedModelError for one that is not trained here."""
    if config.detector not in TRAINED:
        raise UnsupportedModelError(
            "this kind of detector cannot be trained", received=repr(config.detector),
            valid=", ".join(TRAINED), next_command="aqd-deploy export CHECKPOINT -o FILE",
        )  # fmt: skip
    return TRAINED[config.detector]


def detection_loss(
    config: ModelConfig, outputs: dict[str, Tensor], boxes: Tensor, labels: Tensor
) -> dict[str, Tensor]:
    """The losses of the configuration's detector, by name; their sum is what is trained."""
    return trained_detector(config).loss(config, outputs, boxes, labels)
