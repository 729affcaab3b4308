"""Pictures of a report: what the float and the integer network find in the same images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aqd_deploy.detection.image_files import ImageFiles, printable
from aqd_deploy.workflow.detect import Run, detect_images
from aqd_deploy.workflow.results_folder import drawing_names

FOLDERS = {"float": "{}_float_boxes", "integer": "{}_boxes"}
"""By the columns of the report; `{}` is the network's name."""


def boxes_folder(folder: Path, name: str, column: str) -> Path:
    """Where the boxes of one of the columns are."""
    return folder / FOLDERS[column].format(name)


def draw_pictures(
    folder: Path, name: str, runs: Mapping[str, Run], manifest: dict[str, Any], files: list[Path]
) -> list[dict[str, Any]]:
    """Fill a folder in `folder` for each of `runs`, by column, with what it finds in the image files; the
    `pictures` of the report. Raises what `detect_images` raises.
    """
    for column, run in runs.items():
        detect_images(run, manifest, ImageFiles(files), boxes_folder(folder, name, column))
    drawings = drawing_names(files)
    return [
        {
            "image": printable(path),
            **{column: f"{FOLDERS[column].format(name)}/{drawings[path]}" for column in runs},
        }
        for path in files
    ]
