"""`aqd-deploy anchors`: the anchors that suit the boxes of a training set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aqd_deploy.cli.options import SizeType, existing, json_option
from aqd_deploy.cli.output import print_json, print_text, verb

if TYPE_CHECKING:
    from aqd_deploy.detection.anchors import Anchors


@verb(name="anchors")
@click.option("--annotations", type=existing("A.json"), required=True,
              help="The training set's COCO annotations, with the images' sizes.")  # fmt: skip
@click.option("-k", "--count", type=click.IntRange(1, 100), default=5, show_default=True,
              help="How many anchors.")  # fmt: skip
@click.option("--image-size", type=SizeType(), default="416", show_default=True,
              help="The network's image: 416 or HxW.")  # fmt: skip
@click.option("--stride", type=click.IntRange(1, 1024), default=32, show_default=True,
              help="Pixels between two cells of the network's map.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True,
              help="Seed of the search's starts.")  # fmt: skip
@json_option
def command(
    annotations: Path, count: int, image_size: tuple[int, int], stride: int, seed: int, as_json: bool
) -> None:
    """Find the anchors that suit the boxes of a training set, for YOLOv2.

    k-means over widths and heights, as they are in letterboxed images, by overlap (IoU). Crowds and empty
    boxes are left out.
    """
    from aqd_deploy.detection.anchors import find_anchors, letterboxed_sides
    from aqd_deploy.evaluation.coco import load_annotations

    sides = letterboxed_sides(load_annotations(annotations), *image_size)
    found = find_anchors(sides, count, seed)
    if as_json:
        print_json(_document(found, image_size, stride))
    else:
        print_text(_view(found, len(sides), image_size, stride))


def _document(found: Anchors, image_size: tuple[int, int], stride: int) -> dict[str, Any]:
    return {
        "image_size": list(image_size), "stride": stride, "boxes": int(found.boxes.sum()),
        "mean_iou": found.overlap,
        "anchors": [
            {"pixels": pixels, "cells": [side / stride for side in pixels], "boxes": boxes}
            for pixels, boxes in zip(found.sides.tolist(), found.boxes.tolist(), strict=True)
        ],
    }  # fmt: skip


def _view(found: Anchors, boxes: int, image_size: tuple[int, int], stride: int) -> str:
    from aqd_deploy.tables import lines_of, table

    rows = [
        (*(f"{side:.2f}" for side in sides), *(f"{side / stride:.2f}" for side in sides), count)
        for sides, count in zip(found.sides.tolist(), found.boxes.tolist(), strict=True)
    ]
    headers = ("width", "height", "width/stride", "height/stride", "boxes")
    height, width = image_size
    said = f"{boxes} boxes in images of {height}x{width}; mean IoU {found.overlap:.4f}"
    return "\n".join([table(headers, rows), lines_of([said])])
