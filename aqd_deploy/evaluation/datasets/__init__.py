"""Data sets of labelled boxes: a format a file, each of which makes a COCO document of what it reads.

A new format is a module with a class as `Format` asks, and a line in `FORMATS`.
"""

from __future__ import annotations

from pathlib import Path

from aqd_deploy.errors import AqdError
from aqd_deploy.evaluation.datasets.coco import CocoFormat
from aqd_deploy.evaluation.datasets.contract import DataSet, Format, ImageFolder
from aqd_deploy.evaluation.datasets.voc import VocFormat
from aqd_deploy.evaluation.datasets.yolo import YoloFormat

FORMATS: tuple[Format, ...] = (CocoFormat(), VocFormat(), YoloFormat())


def read_dataset(annotations: Path, images: ImageFolder, names: Path | None = None) -> DataSet:
    """The data set whose labels are `annotations`: a JSON file (COCO), or a folder with .xml files (Pascal
    VOC) or .txt files (YOLO) in it or below it. `names` is the file with the names of YOLO's classes.

    Raises AqdError where it is none of these, or two at once, and what the format raises.
    """
    found = [each for each in FORMATS if each.reads(annotations)]
    if len(found) != 1:
        raise AqdError(
            "the folder has labels of two formats" if found else "the folder has no labels in it",
            received=str(annotations), valid=", or ".join(each.told for each in FORMATS),
        )  # fmt: skip
    if names is not None and not found[0].takes_names:
        raise AqdError(
            "names of classes are given for labels that have them", received=str(names),
            valid=f"the same command without --names: {annotations} is of the format {found[0].name}",
        )  # fmt: skip
    return found[0].read(annotations, images, names)
