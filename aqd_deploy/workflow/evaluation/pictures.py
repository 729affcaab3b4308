"""Pictures of `eval`: what the float and the last integer stage found in the first images, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aqd_deploy.detection.decode import Detections
from aqd_deploy.detection.draw import draw
from aqd_deploy.detection.images import load_image
from aqd_deploy.own_files import OwnFiles
from aqd_deploy.reporting.page.pictures import PictureBudget
from aqd_deploy.workflow.evaluation.document import Measured
from aqd_deploy.workflow.evaluation.images import ImageTask
from aqd_deploy.workflow.evaluation.results import VERB, ImageResult

FOLDER = "pictures"
COLUMNS = {"float": ("float",), "integer": ("program", "integer_reference")}
"""The stages that each column of the report may show, the first that was evaluated."""
_DRAWN_ABOVE = 0.5
_QUALITY = 90


def draw_pictures(
    folder: Path, tasks: Sequence[ImageTask], measured: Sequence[Measured], inputs: Sequence[Path]
) -> list[dict[str, Any]]:
    """Draw into FOLDER of the run's folder; the `pictures` of the report, [] where neither column has a
    stage. Boxes of score 0.5 and above are drawn.

    Raises what `load_image` and `OwnFiles` raise; `inputs` are files that it must not replace.
    """
    shown = _columns(measured)
    if not shown:
        return []
    names = {
        (column, task.name): f"{column}_{number:02}.jpg"
        for number, task in enumerate(tasks[: PictureBudget.images])
        for column in shown
    }
    with OwnFiles(folder / FOLDER, VERB, names.values(), inputs) as own:
        for index, task in enumerate(tasks[: PictureBudget.images]):
            image = load_image(task.path)
            for column, stage in shown.items():
                found = _detections(stage.found[index]).at_least(_DRAWN_ABOVE)
                name = names[column, task.name]
                with own.writing():
                    drawing = draw(image, found, stage.facts.settings.classes)
                    drawing.save(own.staging / name, format="JPEG", quality=_QUALITY)
                own.publish(own.staging / name, name)
    return [
        {"image": task.name, **{column: f"{FOLDER}/{names[column, task.name]}" for column in shown}}
        for task in tasks[: PictureBudget.images]
    ]


def _columns(measured: Sequence[Measured]) -> Mapping[str, Measured]:
    by_stage = {each.stage.name: each for each in measured}
    return {
        column: by_stage[known[0]]
        for column, stages in COLUMNS.items()
        if (known := [stage for stage in stages if stage in by_stage])
    }


def _detections(result: ImageResult) -> Detections:
    """With corners in place of width and height."""
    table = np.array(result.boxes, np.float32).reshape(-1, 6)
    corners = np.concatenate([table[:, :2], table[:, :2] + table[:, 2:4]], axis=1)
    return Detections(corners, table[:, 4], table[:, 5].astype(np.int64))
