"""The report of `eval`."""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from aqd_deploy.detection.images import describe_preprocessing
from aqd_deploy.environment import environment
from aqd_deploy.workflow.evaluation.results import STEPS, ImageResult, RunFolder
from aqd_deploy.workflow.evaluation.stages import Stage, StageFacts

REPORT = "report.json"
VIEWS = (REPORT,)


@dataclass(frozen=True)
class Measured:
    """A stage, its `accuracy`, what it found in each image, and the seconds that this call ran it."""

    stage: Stage
    facts: StageFacts
    accuracy: dict[str, Any]
    found: Sequence[ImageResult]
    seconds: float


def document_of(
    images: dict[str, Any], network: dict[str, Any], measured: Sequence[Measured], gates: list[dict[str, Any]]
) -> dict[str, Any]:
    """The report's document; what there is no object for is null."""
    last = measured[-1]
    model = {
        "name": network.get("name", last.stage.path.stem),
        "preprocessing": describe_preprocessing(last.facts.manifest),
        "seconds": {each.stage.name: round(each.seconds, 2) for each in measured},
        "files": {each.stage.name: each.facts.file for each in measured},
        "accuracy": {each.stage.name: _known(each.accuracy) for each in measured},
        "steps": _steps(last),
    }
    return {
        "schema": 3,
        "kind": "eval",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "environment": environment(),
        "images": images,
        "gates": gates,
        "models": [model],
    }


def write_views(folder: RunFolder, document: dict[str, Any]) -> None:
    """Write the report into the folder."""
    folder.write(REPORT, document)


def _known(accuracy: Mapping[str, Any]) -> dict[str, Any]:
    """With null for NaN, which JSON does not have."""
    return {
        name: _known(value) if isinstance(value, dict) else None if math.isnan(value) else value
        for name, value in accuracy.items()
    }


def _steps(measured: Measured) -> dict[str, float]:
    times = zip(*(each.ms for each in measured.found), strict=True)
    return {
        f"{step}_ms": round(statistics.median(values), 3) for step, values in zip(STEPS, times, strict=True)
    }
