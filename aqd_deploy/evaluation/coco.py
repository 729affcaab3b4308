"""Average precision as COCO defines it, by pycocotools."""

from __future__ import annotations

import contextlib
import copy
import io
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np

from aqd_deploy.errors import AqdError
from aqd_deploy.inputs import GIB, FileKind
from aqd_deploy.schema import SchemaError, list_of, number, one_of, table, text, whole

# The largest of COCO has 448 MB. JSON takes 5 times that in memory, at worst 30 times.
ANNOTATIONS_FILE = FileKind("annotations file", "a COCO annotations document", GIB // 2)
_BOX = list_of(number(-1e9, 1e9), 4, 4)


def _is_id(value: Any, place: str) -> None:
    if not isinstance(value, Integral | str) or isinstance(value, bool):
        raise SchemaError(place, value, "a whole number or a text")


_SCHEMA = table({
    "images": list_of(table({"id": _is_id}, {"file_name": text})),
    "categories": list_of(table({"id": _is_id})),
}, {
    "annotations": list_of(table(
        {"id": whole(), "image_id": _is_id, "category_id": _is_id, "bbox": _BOX},
        {"area": number(0, 1e18), "iscrowd": one_of(0, 1, False, True)},
    )),
})  # fmt: skip
_RESULTS = list_of(table({"image_id": _is_id, "category_id": _is_id, "bbox": _BOX, "score": number()}))
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
ALL_METRICS = (*METRICS, "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""The twelve numbers of COCO, in pycocotools' order."""

Results = list[dict[str, Any]]


@dataclass(frozen=True)
class CocoNumbers:
    """`metrics`, those of ALL_METRICS, and AP by category id; NaN where there is no such object."""

    metrics: dict[str, float]
    by_category: dict[int, float]


def evaluate(
    annotations: str | os.PathLike[str] | dict[str, Any],
    results: Results,
    image_ids: Iterable[int | str] | None = None,
) -> dict[str, float]:
    """AP (mean over IoU 0.50 to 0.95), AP50, AP75 and AP of small, medium and large objects, each in 0..1.

    `annotations` is a COCO annotations document or the path of one; `results` are COCO result records
    (image_id, category_id, bbox [x, y, width, height], score). `image_ids` are the images that were run: all
    others count neither for nor against (default: all were). A size of which there is no object has the
    value NaN. Empty results give 0. Prints nothing; no argument is changed.

    Raises AqdError: no such file, not JSON, no images or no annotations in it, results of images or
    categories it does not have or that were not run, a record without one of its fields.
    """
    if isinstance(annotations, dict):
        document = checked(annotations, results, image_ids)
    else:
        document = checked(load_annotations(annotations), results, image_ids)
    if not results:
        return dict.fromkeys(METRICS, 0.0)
    metrics = coco_numbers(document, results).metrics
    return {name: metrics[name] for name in METRICS}


def checked(
    annotations: dict[str, Any], results: Results, image_ids: Iterable[int | str] | None = None
) -> dict[str, Any]:
    """A copy of the annotations of these images, as pycocotools needs them. Raises what `evaluate` does."""
    document = copy.deepcopy(annotations)
    _check_annotations(document)
    if image_ids is not None:
        _keep_images(document, set(image_ids))
    _check_results(document, results)
    return document


def coco_numbers(document: dict[str, Any], results: Results) -> CocoNumbers:
    """The numbers of a document that `checked` gave, by pycocotools. Empty results give 0 where there are
    objects.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth, found = COCO(), COCO()
        truth.dataset = document
        truth.createIndex()
        if results:
            found = truth.loadRes(copy.deepcopy(results))
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    # pycocotools writes −1 where there is nothing to find.
    stats = [float(value) if value >= 0 else math.nan for value in np.asarray(evaluation.stats)]
    precision = np.asarray(evaluation.eval["precision"])[..., 0, -1]
    return CocoNumbers(
        dict(zip(ALL_METRICS, stats, strict=True)),
        {
            category: float(values.mean()) if (values := precision[:, :, k][precision[:, :, k] > -1]).size
            else math.nan
            for k, category in enumerate(evaluation.params.catIds)
        },
    )  # fmt: skip


def _keep_images(document: dict[str, Any], ids: set[int | str]) -> None:
    for key, of in (("images", "id"), ("annotations", "image_id")):
        document[key] = [record for record in document[key] if record[of] in ids]
        if not document[key]:
            raise AqdError(f"the annotations have no {key} of what was run: there is nothing to measure")


def load_annotations(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A COCO annotations document from a file, which may have no annotations in it (a test set).

    Raises AqdError where there is none, or it is something else.
    """
    return parse_annotations(ANNOTATIONS_FILE.read(path), os.fspath(path))


def parse_annotations(data: bytes, where: str) -> dict[str, Any]:
    """The COCO annotations document in `data`, the bytes of the file `where`. Raises AqdError."""
    document = ANNOTATIONS_FILE.parse_json(data, where)
    if not isinstance(document, dict):
        raise AqdError("the annotations file is not a COCO document", received=where, valid="a JSON object")
    _check_schema(document)
    return document


def _check_schema(document: dict[str, Any]) -> None:
    try:
        _SCHEMA(document, "")
    except SchemaError as error:
        raise error.of("the annotations document", AqdError) from error


def _check_annotations(document: dict[str, Any]) -> None:
    for key in ("images", "annotations", "categories"):
        if not isinstance(document.get(key), list):
            raise AqdError(f"the annotations have no list {key!r}", valid="images, annotations, categories")
    for key in ("images", "annotations"):
        if not document[key]:
            raise AqdError(f"the annotations' list {key!r} is empty: there is nothing to measure")
    _check_schema(document)
    for record in document["annotations"]:
        # Without the first pycocotools fails, without the second it counts the object in no size.
        record.setdefault("iscrowd", 0)
        record.setdefault("area", record["bbox"][2] * record["bbox"][3])
    if len({isinstance(record["id"], str) for record in document["images"]}) > 1:
        raise AqdError("some of the images' ids are numbers and some are texts")
    ids = [record["id"] for record in document["annotations"]]
    if len(set(ids)) != len(ids):
        raise AqdError("the annotations' ids are not unique")
    if 0 in ids:
        # pycocotools takes the id 0 for "no match", so that object would count as missed and its box as
        # wrong.
        for position, record in enumerate(document["annotations"], start=1):
            record["id"] = position


def _check_results(document: dict[str, Any], results: list[dict[str, Any]]) -> None:
    try:
        _RESULTS(results, "results")
    except SchemaError as error:
        raise error.of("the evaluation", AqdError) from error
    for key, of in (("image_id", "images"), ("category_id", "categories")):
        known = {record["id"] for record in document[of]}
        unknown = sorted({record[key] for record in results} - known, key=str)
        if unknown:
            raise AqdError(
                f"results name {len(unknown)} {key}s that the annotations do not have",
                received=", ".join(map(str, unknown[:5])),
                valid=", ".join(map(str, sorted(known, key=str)[:10])) + (" ..." if len(known) > 10 else ""),
            )
