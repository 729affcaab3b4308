"""Average precision as COCO defines it, by pycocotools."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from aqd_deploy.errors import AqdError

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def evaluate(
    annotations: str | os.PathLike[str] | dict[str, Any], results: list[dict[str, Any]]
) -> dict[str, float]:
    """AP (mean over IoU 0.50 to 0.95), AP50, AP75 and AP of small, medium and large objects, each in 0..1.

    `annotations` is a COCO annotations document or the path of one; `results` are COCO result records
    (image_id, category_id, bbox [x, y, width, height], score). A size of which there is no object has the
    value NaN. Empty results give 0. Prints nothing; neither argument is changed.

    Raises AqdError: no such file, not JSON, no images or no annotations in it, results of images or
    categories it does not have, a record without one of its fields.
    """
    document = copy.deepcopy(annotations) if isinstance(annotations, dict) else load_annotations(annotations)
    _check_annotations(document)
    _check_results(document, results)
    if not results:
        return dict.fromkeys(METRICS, 0.0)
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = document
        truth.createIndex()
        found = truth.loadRes(copy.deepcopy(results))
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    # pycocotools writes −1 where there is nothing to find.
    return {
        name: float(value) if value >= 0 else math.nan
        for name, value in zip(METRICS, np.asarray(evaluation.stats)[:6], strict=True)
    }


def load_annotations(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A COCO annotations document from a file; AqdError where there is none or it is no JSON object."""
    name = os.fspath(path)
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise AqdError("there is no such annotations file", received=name) from None
    except OSError as error:
        raise AqdError(f"the annotations file cannot be read ({error.strerror})", received=name) from None
    except ValueError as error:
        raise AqdError(f"the annotations file is not JSON ({error})", received=name) from None
    if not isinstance(document, dict):
        raise AqdError("the annotations file is no COCO document", received=name, valid="a JSON object")
    return document


def _check_annotations(document: dict[str, Any]) -> None:
    for key in ("images", "annotations", "categories"):
        if not isinstance(document.get(key), list):
            raise AqdError(f"the annotations have no list {key!r}", valid="images, annotations, categories")
    for key in ("images", "annotations"):
        if not document[key]:
            raise AqdError(f"the annotations' list {key!r} is empty: there is nothing to measure")
    for record in document["annotations"]:
        _check_fields(record, {"image_id", "category_id", "bbox"}, "an annotation")
        # Without the first pycocotools fails, without the second it counts the object in no size.
        record.setdefault("iscrowd", 0)
        record.setdefault("area", record["bbox"][2] * record["bbox"][3])
    ids = [record.get("id") for record in document["annotations"]]
    if len(set(ids)) != len(ids) or None in ids:
        raise AqdError("the annotations' ids are not unique")
    if 0 in ids:
        # pycocotools takes the id 0 for "no match", so that object would count as missed and its box as
        # wrong.
        for position, record in enumerate(document["annotations"], start=1):
            record["id"] = position


def _check_results(document: dict[str, Any], results: list[dict[str, Any]]) -> None:
    for record in results:
        _check_fields(record, {"image_id", "category_id", "bbox", "score"}, "a result")
    for key, of in (("image_id", "images"), ("category_id", "categories")):
        known = {record["id"] for record in document[of]}
        unknown = sorted({record[key] for record in results} - known, key=str)
        if unknown:
            raise AqdError(
                f"results name {len(unknown)} {key}s that the annotations do not have",
                received=", ".join(map(str, unknown[:5])),
                valid=", ".join(map(str, sorted(known, key=str)[:10])) + (" ..." if len(known) > 10 else ""),
            )


def _check_fields(record: dict[str, Any], fields: set[str], kind: str) -> None:
    missing = fields - set(record)
    if missing:
        raise AqdError(f"{kind} has no {', '.join(sorted(missing))}", received=record)
    box = record["bbox"]
    if not isinstance(box, list | tuple) or len(box) != 4:
        raise AqdError(
            f"the bbox of {kind} is not valid", received=box, valid="four numbers: x, y, width, height"
        )
