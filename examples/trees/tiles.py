"""Aerial photographs with labelled trees, cut into tiles: a COCO folder of a split, or random training crops.

The photographs and their boxes lie in the `deepforest` package (`pip install --no-deps deepforest`), which is
not imported: only its folder `data` is read.

    python examples/trees/tiles.py --split heldout -o trees-heldout

writes the tiles of a split as PNG files, with their annotations.
"""

from __future__ import annotations

import argparse
import json
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from aqd_deploy.errors import AqdError
from aqd_deploy.files import write_text

TILE = 320
CLASS = "tree"
SPLITS = {
    "train": ("2019_YELL_2_528000_4978000_image_crop2", "OSBS_029", "SOAP_061"),
    "heldout": ("2019_YELL_2_541000_4977000_image_crop",),
}
LEAST_VISIBLE = 0.4


@dataclass(frozen=True)
class Photograph:
    """Pixels uint8 [H, W, 3] RGB and boxes float32 [n, 4] (x1, y1, x2, y2), far edges exclusive."""

    name: str
    pixels: np.ndarray
    boxes: np.ndarray


def package_folder() -> Path:
    """The folder `data` of the installed `deepforest`; AqdError where it is not installed."""
    spec = find_spec("deepforest")
    if spec is None or not spec.submodule_search_locations:
        raise AqdError(
            "the package with the photographs is not installed", received="no module deepforest",
            next_command="pip install --no-deps deepforest",
        )  # fmt: skip
    return Path(spec.submodule_search_locations[0]) / "data"


def photographs(split: str, folder: Path) -> list[Photograph]:
    """The photographs of a split with all their boxes, of whatever class: each is a tree."""
    return [_photograph(folder, name) for name in SPLITS[split]]


def _photograph(folder: Path, name: str) -> Photograph:
    image, labels = folder / f"{name}.png", folder / f"{name}.xml"
    for path in (image, labels):
        if not path.exists():
            raise AqdError(
                "the package lacks a photograph or its labels", received=str(path),
                valid="deepforest 2.1.0", next_command="pip install --no-deps deepforest==2.1.0",
            )  # fmt: skip
    corners = ("xmin", "ymin", "xmax", "ymax")
    found = [
        [float(box.findtext(corner, "")) for corner in corners]
        for box in ElementTree.parse(labels).getroot().iter("bndbox")
    ]
    boxes = np.array(found, np.float32).reshape(-1, 4)
    boxes[:, :2] -= 1  # Pascal VOC counts pixels from 1
    return Photograph(name, np.asarray(Image.open(image).convert("RGB")), boxes)


def cut(boxes: np.ndarray, left: float, top: float, side: float) -> np.ndarray:
    """The boxes [m, 4] of which at least `LEAST_VISIBLE` lies in a square, clipped to it, in its pixels."""
    moved = boxes - np.array([left, top, left, top], np.float32)
    clipped = moved.clip(0, side)
    seen = _areas(clipped) >= LEAST_VISIBLE * _areas(moved)
    return clipped[seen]


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def tiles_of(photograph: Photograph, side: int = TILE) -> list[Photograph]:
    """Squares that cover a photograph with as little overlap as an even grid of them has."""
    height, width, _ = photograph.pixels.shape
    rows, columns = (_starts(length, side) for length in (height, width))
    return [
        Photograph(
            f"{photograph.name}_{top}_{left}",
            photograph.pixels[top : top + side, left : left + side],
            cut(photograph.boxes, left, top, side),
        )
        for top in rows
        for left in columns
    ]


def _starts(length: int, side: int) -> list[int]:
    if length < side:
        raise AqdError("a photograph is smaller than a tile", received=length, valid=f"at least {side}")
    count = -(-length // side)
    return [round(k * (length - side) / max(count - 1, 1)) for k in range(count)]


def write_tiles(split: str, folder: Path, output: Path) -> Path:
    """Writes the tiles of a split into `output` with `annotations.json`, which it returns."""
    output.mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for photograph in photographs(split, folder):
        for tile in tiles_of(photograph):
            number = len(images) + 1
            file = f"{tile.name}.png"
            Image.fromarray(tile.pixels).save(output / file)
            images.append({"id": number, "file_name": file, "width": TILE, "height": TILE})
            for x1, y1, x2, y2 in tile.boxes.tolist():
                annotations.append({
                    "id": len(annotations) + 1, "image_id": number, "category_id": 1, "iscrowd": 0,
                    "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1),
                })  # fmt: skip
    document = {
        "images": images, "annotations": annotations, "categories": [{"id": 1, "name": CLASS}],
    }  # fmt: skip
    path = output / "annotations.json"
    write_text(path, json.dumps(document))
    return path


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write tiles of labelled aerial photographs.")
    parser.add_argument("--split", choices=SPLITS, default="heldout")
    parser.add_argument("-o", "--out", required=True, type=Path, metavar="DIR")
    options = parser.parse_args(arguments)
    try:
        path = write_tiles(options.split, package_folder(), options.out)
    except (AqdError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
