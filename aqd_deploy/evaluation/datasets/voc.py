"""Pascal VOC: a folder with an XML file an image.

Corners are whole pixels and count from 1: the box from (1, 1) to (1, 1) is the first pixel. Objects that are
marked `difficult` count neither for nor against (Everingham et al., The PASCAL Visual Object Classes
Challenge, 2010, section 4.2).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from aqd_deploy.errors import AqdError
from aqd_deploy.evaluation.datasets.contract import (
    DataSet,
    Digest,
    ImageFolder,
    annotation,
    document_of,
    label_files,
    pairs,
)
from aqd_deploy.inputs import MIB, FileKind

_SUFFIX = ".xml"
_FILE = FileKind("label file", "a Pascal VOC annotation", 16 * MIB)
_LINE = "{line}"
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


class VocFormat:
    """An image belongs to the XML file that has its path but for the ending; what `filename` says in it is
    often old. The classes are those that occur.
    """

    name = "voc"
    told = "a folder of Pascal VOC labels (.xml files)"
    takes_names = False

    def reads(self, annotations: Path) -> bool:
        """Whether a file of it ends with .xml."""
        return annotations.is_dir() and any(label_files(annotations, _SUFFIX))

    def read(self, annotations: Path, images: ImageFolder, names: Path | None) -> DataSet:
        """Images without an XML file have no id."""
        labels = {
            path.relative_to(annotations).with_suffix(""): path for path in label_files(annotations, _SUFFIX)
        }
        digest, ids = Digest(), dict[Path, int | str]()
        entries: list[dict[str, Any]] = []
        objects: list[tuple[int, Element, Path]] = []
        for image, label in pairs(labels, images):
            if label is None:
                continue
            data = _FILE.read(label)
            digest.add(label.relative_to(annotations).as_posix(), data)
            root, number = _parsed(data, label), len(ids) + 1
            ids[image] = number
            entries.append(_image(root, number, image.relative_to(images.root).as_posix(), label))
            objects += [(number, each, label) for each in root.iter("object")]
        classes = sorted({_text(each, "name", label) for _, each, label in objects})
        numbers = {name: index for index, name in enumerate(classes, start=1)}
        records = [
            annotation(
                index, image, numbers[_text(each, "name", label)], _box(each, label), _difficult(each, label)
            )
            for index, (image, each, label) in enumerate(objects, start=1)
        ]
        document = document_of(entries, records, classes)
        return DataSet(self.name, document, ids, digest.hexdigest(), complete=False)


def _parsed(data: bytes, path: Path) -> Element:
    """The root element; every element has its line, and none is an entity's, which could fill the memory."""
    builder, parser = TreeBuilder(), expat.ParserCreate()

    def start(tag: str, attributes: dict[str, str]) -> None:
        builder.start(tag, {**attributes, _LINE: str(parser.CurrentLineNumber)})

    def refuse(*_: Any) -> None:
        raise AqdError(
            "the label file declares an entity", received=f"{path}:{parser.CurrentLineNumber}",
            valid=_FILE.valid,
        )  # fmt: skip

    parser.StartElementHandler = start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.EntityDeclHandler = refuse
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        why = expat.errors.messages.get(error.code, "damaged")
        raise AqdError(
            f"the label file is not XML: {why}", received=f"{path}:{error.lineno}", valid=_FILE.valid
        ) from error
    root: Element = builder.close()
    if root.tag != "annotation":
        raise _damaged(path, root, f"begins with <{root.tag}>", "<annotation>")
    return root


def _image(root: Element, number: int, name: str, path: Path) -> dict[str, Any]:
    """The image's entry, with its size where the file tells it."""
    entry = {"id": number, "file_name": name}
    for key in ("width", "height"):
        side = root.find(f"size/{key}")
        if side is not None and (pixels := _number(side, path)) > 0:
            entry[key] = int(pixels)
    return entry


def _box(entry: Element, path: Path) -> tuple[float, float, float, float]:
    found = {key: entry.find(f"bndbox/{key}") for key in _CORNERS}
    lacking = [key for key, each in found.items() if each is None]
    if lacking:
        raise _damaged(path, entry, f"has an <object> without {lacking[0]}", ", ".join(_CORNERS))
    left, top, right, bottom = (_number(each, path) for each in found.values() if each is not None)
    if right < left or bottom < top:
        corners = f"{left:g}, {top:g} to {right:g}, {bottom:g}"
        raise _damaged(path, entry, f"has a box of no size ({corners})", "xmin <= xmax and ymin <= ymax")
    return left - 1, top - 1, right - left + 1, bottom - top + 1


def _difficult(entry: Element, path: Path) -> bool:
    found = entry.find("difficult")
    return found is not None and (found.text or "").strip() != "" and _number(found, path) != 0


def _text(entry: Element, key: str, path: Path) -> str:
    found = entry.find(key)
    text = "" if found is None else (found.text or "").strip()
    if not text:
        raise _damaged(path, entry, f"has an <{entry.tag}> without {key}", f"<{key}>TEXT</{key}>")
    return text


def _number(entry: Element, path: Path) -> float:
    try:
        value = float(entry.text or "")
    except ValueError:
        value = math.nan
    if not abs(value) < 1e9:
        raise _damaged(path, entry, f"has {(entry.text or 'nothing')[:40]!r} as {entry.tag}", "a number")
    return value


def _damaged(path: Path, entry: Element, what: str, valid: str) -> AqdError:
    return AqdError(f"the label file {what}", received=f"{path}:{entry.get(_LINE)}", valid=valid)
