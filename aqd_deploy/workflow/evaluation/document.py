"""What `eval` puts into its report."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aqd_deploy.detection.images import describe_preprocessing
from aqd_deploy.devices import LOCAL
from aqd_deploy.reporting.document import make_report
from aqd_deploy.reporting.inspection import inspect_file
from aqd_deploy.runtime.bundle_files import program_file
from aqd_deploy.workflow.evaluation.results import STEPS, ImageResult
from aqd_deploy.workflow.evaluation.stages import PROGRAM, QUANTIZED, Stage, StageFacts

_KEYS = ("name", "architecture", "bits", "detector", "preprocessing", "lowering")
_INSIDE = {
    "preprocess_ms": "decoding the file, resizing, ordering the colours; while the network runs on another",
    "inference_ms": "from the input's pixels to the output maps, and from integers to floats where a tail "
    "takes those",
    "decode_ms": "from output maps to boxes: thresholds, the best candidates, NMS",
}


@dataclass(frozen=True)
class Measured:
    """A stage, its `accuracy`, what it found in each image, and the seconds that this call ran it."""

    stage: Stage
    facts: StageFacts
    accuracy: dict[str, Any]
    found: Sequence[ImageResult]
    seconds: float


def report_of(
    images: dict[str, Any], network: dict[str, Any], measured: Sequence[Measured],
    gates: list[dict[str, Any]], pictures: list[dict[str, Any]], sections: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """The report of the stages of one network; `sections` are further ones, which go before those of here."""
    last = measured[-1]
    quantized = next((each for each in reversed(measured) if each.stage.name in QUANTIZED), last)
    model = {
        "name": network.get("name", last.stage.path.stem),
        "manifest": {key: value for key, value in quantized.facts.manifest.items() if key in _KEYS},
        "preprocessing": describe_preprocessing(last.facts.manifest),
        "device": next((each.stage.device for each in measured if _is_elsewhere(each.stage)), None),
        "lowering": quantized.facts.manifest.get("lowering"),
        "weights": _weights(program_file(quantized.stage.path)),
        "files": {each.stage.name: each.facts.file for each in measured},
        "accuracy": {each.stage.name: each.accuracy for each in measured},
        "seconds": {each.stage.name: round(each.seconds, 2) for each in measured},
        "steps": _steps(last),
        "pictures": pictures,
        **sections,
    }
    return make_report("eval", images, [model], gates)


def _is_elsewhere(stage: Stage) -> bool:
    return stage.name == PROGRAM and stage.device != LOCAL


def _weights(path: Path) -> dict[str, Any] | None:
    """Of a file that `inspect` knows by its name."""
    return dict(inspect_file(path)["weights"]) if path.suffix in (".onnx", ".so") else None


def _steps(measured: Measured) -> dict[str, Any]:
    """Medians over the images of the last stage."""
    times = zip(*(each.ms for each in measured.found), strict=True)
    medians = {f"{step}_ms": statistics.median(values) for step, values in zip(STEPS, times, strict=True)}
    return {
        **{step: round(value, 3) for step, value in medians.items()},
        "images": len(measured.found),
        "inside": _INSIDE,
    }
