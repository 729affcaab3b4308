"""The labels of a COCO document in two other formats that `aqd-deploy eval` reads.

    python examples/digits/labels.py examples/digits/images/annotations.json -o labels

writes `labels/voc`, an XML file an image, whose corners count from 1, and `labels/yolo`, a text file an image
with objects, and `classes.txt` with the classes' names. Crowds become objects that are difficult in VOC's and
are left out of YOLO's, which have no word for them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from aqd_deploy.files import write_text


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write labels of a COCO document as VOC's and YOLO's.")
    parser.add_argument("annotations", type=Path, help="a COCO document with the size of every image")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    options = parser.parse_args(arguments)
    convert(json.loads(options.annotations.read_text(encoding="utf-8")), options.output)


def convert(document: dict[str, Any], folder: Path) -> None:
    """Write `folder/voc` and `folder/yolo`."""
    names = {each["id"]: each["name"] for each in document["categories"]}
    classes = list(names.values())
    for image in document["images"]:
        objects = [
            (names[each["category_id"]], each["bbox"], bool(each.get("iscrowd")))
            for each in document["annotations"]
            if each["image_id"] == image["id"]
        ]
        name, size = Path(image["file_name"]), (image["width"], image["height"])
        _write(folder / "voc" / name.with_suffix(".xml"), voc(name.name, size, objects))
        lines = [yolo(classes.index(kind), size, box) for kind, box, crowd in objects if not crowd]
        if lines:
            _write(folder / "yolo" / name.with_suffix(".txt"), "\n".join(lines) + "\n")
    _write(folder / "yolo" / "classes.txt", "\n".join(classes) + "\n")


def voc(name: str, size: tuple[int, int], objects: list[tuple[str, list[float], bool]]) -> str:
    """An image's XML; boxes are left, top, width, height in pixels."""
    root = Element("annotation")
    SubElement(root, "filename").text = name
    _children(SubElement(root, "size"), width=size[0], height=size[1], depth=3)
    for kind, (x, y, width, height), crowd in objects:
        entry = SubElement(root, "object")
        _children(entry, name=kind, difficult=int(crowd))
        corners = {"xmin": x + 1, "ymin": y + 1, "xmax": x + width, "ymax": y + height}
        _children(SubElement(entry, "bndbox"), **corners)
    indent(root)
    return tostring(root, encoding="unicode") + "\n"


def yolo(index: int, size: tuple[int, int], box: list[float]) -> str:
    """A line: class, then center, width and height in shares of the image."""
    x, y, width, height = box
    shares = ((x + width / 2) / size[0], (y + height / 2) / size[1], width / size[0], height / size[1])
    return " ".join([str(index), *map(repr, shares)])


def _children(parent: Element, **texts: object) -> None:
    for name, text in texts.items():
        SubElement(parent, name).text = str(text)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)


if __name__ == "__main__":
    main()
