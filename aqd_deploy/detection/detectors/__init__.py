"""The detectors by name: what the output maps of each are, and what they mean.

To add one: a module with a subclass of `MapDetector` or `Detector`, and its line in `DETECTORS`. For one that
is trained here, the same in `aqd_deploy.qat.detectors`. All else (manifest, checks, export, decoding,
training) asks the entries.
"""

from __future__ import annotations

from aqd_deploy.detection.detectors.boxes import Boxes
from aqd_deploy.detection.detectors.contract import Detector
from aqd_deploy.detection.detectors.fcos import Fcos
from aqd_deploy.detection.detectors.retinanet import RetinaNet
from aqd_deploy.detection.detectors.yolo_decoded import YoloDecoded
from aqd_deploy.detection.detectors.yolo_end2end import YoloEnd2End
from aqd_deploy.detection.detectors.yolov2 import Yolov2
from aqd_deploy.detection.detectors.yolov3 import YoloV3
from aqd_deploy.detection.detectors.yolov5 import YoloV5
from aqd_deploy.detection.detectors.yolov8 import YoloV8
from aqd_deploy.detection.detectors.yolox import YoloX
from aqd_deploy.errors import AqdError, UnsupportedModelError

DETECTORS: dict[str, type[Detector]] = {
    RetinaNet.name: RetinaNet,
    Fcos.name: Fcos,
    Yolov2.name: Yolov2,
    Boxes.name: Boxes,
    YoloV3.name: YoloV3,
    YoloV5.name: YoloV5,
    YoloV8.name: YoloV8,
    YoloX.name: YoloX,
    YoloDecoded.name: YoloDecoded,
    YoloEnd2End.name: YoloEnd2End,
}


def detector_named(name: object, error: type[AqdError] = UnsupportedModelError) -> type[Detector]:
    """The detector of this name. Raises `error`, with the names that there are, where there is none."""
    if not isinstance(name, str) or name not in DETECTORS:
        raise error(
            "unknown kind of detector", received=repr(name)[:80], valid=", ".join(sorted(DETECTORS)),
            next_command="aqd-deploy export CHECKPOINT -o FILE",
        )  # fmt: skip
    return DETECTORS[name]
