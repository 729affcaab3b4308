"""The accuracy of one stage of a network over a data set: COCO's twelve numbers, VOC AP, AP by class."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from aqd_deploy.detection.dataset import category_ids
from aqd_deploy.errors import AqdError
from aqd_deploy.evaluation.coco import ALL_METRICS, Results, checked, coco_numbers
from aqd_deploy.evaluation.datasets.contract import DataSet
from aqd_deploy.evaluation.voc import mean_of, voc_average_precision

VOC = "VOC"
NUMBERS = (*ALL_METRICS, VOC)
"""What `accuracy` gives beside `per_class`."""


def match_classes(dataset: DataSet, classes: Sequence[str]) -> tuple[dict[str, Any], list[int]]:
    """The document with a category for every class of a network, and the category id of each.

    Raises AqdError where the categories and the classes are not the same ones, by name and count; only a
    data set that does not tell all of its categories may lack some.
    """
    document = dataset.document
    # That every category has a name and a number.
    category_ids([], document)
    names = [category["name"] for category in document.get("categories", [])]
    strange = [name for name in names if name not in classes]
    if strange:
        raise AqdError(
            f"{len(strange)} of {len(names)} categories of the annotations are no classes of the network",
            received=_some(strange), valid=f"its {len(classes)} classes: {_some(classes, 10)}",
        )  # fmt: skip
    if not dataset.complete:
        free = max((category["id"] for category in document["categories"]), default=0) + 1
        more = [name for name in classes if name not in names]
        added = [{"id": number, "name": name} for number, name in enumerate(more, start=free)]
        document = {**document, "categories": [*document["categories"], *added]}
    elif len(names) < len(set(classes)):
        missing = [name for name in classes if name not in names]
        raise AqdError(
            f"{len(missing)} of {len(classes)} classes of the network are no categories of the annotations",
            received=_some(missing), valid=f"the {len(names)} categories: {_some(names, 10)}",
        )  # fmt: skip
    return document, category_ids(classes, document)


def accuracy(
    document: dict[str, Any], results: Results, image_ids: Iterable[int | str]
) -> dict[str, float | dict[str, float]]:
    """NUMBERS over the images that were run, each in 0..1, and `per_class`, AP by name of category.

    What there is no object for is NaN. Raises what `coco.evaluate` raises.
    """
    known = checked(document, results, image_ids)
    coco, voc = coco_numbers(known, results), voc_average_precision(known, results)
    names = {category["id"]: str(category["name"]) for category in known["categories"]}
    return {
        **coco.metrics,
        VOC: mean_of(voc.values()),
        "per_class": {names[number]: value for number, value in coco.by_category.items()},
    }


def _some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (" ..." if len(names) > most else "")
