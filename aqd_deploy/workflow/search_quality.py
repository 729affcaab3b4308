"""How good a quantized network is, judged by its float one on images without labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import ModelProto

from aqd_deploy.detection.decode import Detections, Postprocess
from aqd_deploy.detection.images import Placement
from aqd_deploy.detection.results import coco_results
from aqd_deploy.evaluation.coco import evaluate
from aqd_deploy.passes.canonical.input_shapes import inputs_of, sizes_of
from aqd_deploy.quantization.calibration import Calibration
from aqd_deploy.quantization.output_loss import loss_of, manifest_of
from aqd_deploy.quantization.session import Session, over

IMAGES = 32
"""As many calibration images judge."""
LEAST_SCORE = 0.3
"""Of the float network's own boxes those of this score and above are what there is to find."""


class Judge:
    """The float network's outputs, and what others lack of them."""

    def __init__(
        self, model: ModelProto, calibration: Calibration, described: Mapping[str, Any] | None = None
    ) -> None:
        """`described` as in `quantize`. Raises what `manifest_of` and `loss_of` raise."""
        self.names = [value.name for value in model.graph.output]
        self._feeds = list(calibration.first(IMAGES).feeds())
        manifest = manifest_of(model, described)
        self.detects = manifest.get("detector") is not None
        self._manifest = manifest
        reference = self._run(model)
        self._distance = loss_of(model, manifest).against(reference)
        if self.detects:
            height, width = sizes_of(inputs_of(model)[0])[2:]
            self._placement = Placement(width, height, 0, 0, width, height)
            own = [each.at_least(LEAST_SCORE) for each in self._decoded(reference)]
            self._annotations = _annotations(own, (width, height), len(manifest["detector"]["classes"]))

    def _run(self, model: ModelProto) -> list[dict[str, np.ndarray]]:
        return list(over(Session(model, self.names, as_written=True, threads=1), self._feeds))

    def _decoded(self, outputs: Sequence[Mapping[str, np.ndarray]]) -> list[Detections]:
        postprocess = Postprocess.from_manifest(self._manifest)
        return [postprocess(each, self._placement) for each in outputs]

    def loss(self, model: ModelProto) -> float:
        """The output loss of a quantized network."""
        return self._distance(self._run(model))

    def drop(self, model: ModelProto) -> float:
        """What a quantized network lacks: of a detector 100 − its AP, in points, against the float network's
        own boxes; of another network the output loss.
        """
        outputs = self._run(model)
        if not self.detects:
            return self._distance(outputs)
        records = [
            record
            for image, found in enumerate(self._decoded(outputs), 1)
            for record in coco_results(image, found)
        ]
        return 100 * (1 - evaluate(self._annotations, records)["AP"])


def _annotations(own: Sequence[Detections], size: tuple[int, int], classes: int) -> dict[str, Any]:
    """A COCO document of the float network's boxes."""
    records = [record for image, found in enumerate(own, 1) for record in coco_results(image, found)]
    boxes = [
        {"id": index, "image_id": record["image_id"], "category_id": record["category_id"], "iscrowd": 0,
         "bbox": record["bbox"], "area": record["bbox"][2] * record["bbox"][3]}
        for index, record in enumerate(records, 1)
    ]  # fmt: skip
    return {
        "images": [{"id": image + 1, "width": size[0], "height": size[1]} for image in range(len(own))],
        "categories": [{"id": label, "name": str(label)} for label in range(classes)],
        "annotations": boxes,
    }
