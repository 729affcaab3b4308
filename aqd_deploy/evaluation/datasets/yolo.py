"""YOLO: a folder with a text file an image, a line an object: class, centre, width and height, in shares of
the image's sides. An image without a file, or with an empty one, has no objects in it.

The names of the classes stand in another file: a line each, or the entry `names` of a YAML file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aqd_deploy.detection.images import image_size
from aqd_deploy.errors import AqdError, MissingExtraError, line_of
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

_SUFFIX = ".txt"
_FILE = FileKind("label file", "a text file with a line an object", 16 * MIB)
_NAMES = FileKind("file of classes", "a name a line, or a YAML file with `names`", MIB)
_NAMES_FILES = ("data.yaml", "dataset.yaml", "classes.txt", "obj.names", "classes.names")
_LEVELS = 3
"""Folders in which the file of classes is looked for: that of the labels, and those above it."""
_COLUMNS = "5 numbers: class, centre x and y, width and height, of which the last four are from 0 to 1"
_SLACK = 1e-3
_Object = tuple[int, tuple[float, float, float, float]]


class YoloFormat:
    """An image belongs to the text file that has its path but for the ending. A line of more numbers is a
    polygon, of which the box around it counts; a line that is there twice counts once.
    """

    name = "yolo"
    told = "a folder of YOLO labels (.txt files)"
    takes_names = True

    def reads(self, annotations: Path) -> bool:
        """Whether a file of it ends with .txt, beside one with the names of classes."""
        return annotations.is_dir() and any(_labels(annotations))

    def read(self, annotations: Path, images: ImageFolder, names: Path | None) -> DataSet:
        """Every image has an id. Raises AqdError where no file of classes is found."""
        names = names or _names_file(annotations)
        classes = _class_names(names)
        digest, ids = Digest(), dict[Path, int | str]()
        digest.add(names.name, _NAMES.read(names))
        entries: list[dict[str, Any]] = []
        records: list[dict[str, Any]] = []
        for image, label in pairs(_labels(annotations), images):
            number = len(ids) + 1
            ids[image] = number
            width, height = image_size(image)
            name = image.relative_to(images.root).as_posix()
            entries.append({"id": number, "file_name": name, "width": width, "height": height})
            data = b"" if label is None else _FILE.read(label)
            digest.add(name, data)
            for category, (x, y, w, h) in _objects(data, label, len(classes)):
                box = (x * width, y * height, w * width, h * height)
                records.append(annotation(len(records) + 1, number, category + 1, box))
        return DataSet(self.name, document_of(entries, records, classes), ids, digest.hexdigest())


def _labels(annotations: Path) -> dict[Path, Path]:
    """The label files by their paths without ending."""
    found = (path for path in label_files(annotations, _SUFFIX) if path.name not in _NAMES_FILES)
    return {path.relative_to(annotations).with_suffix(""): path for path in found}


def _names_file(annotations: Path) -> Path:
    folders = [annotations, *annotations.absolute().parents][:_LEVELS]
    for folder in folders:
        for name in _NAMES_FILES:
            if (folder / name).is_file():
                return folder / name
    raise AqdError(
        "the YOLO labels have no file with the names of their classes", received=str(annotations),
        valid=f"one of {', '.join(_NAMES_FILES)} there or above, or the same command with --names FILE",
    )  # fmt: skip


def _class_names(path: Path) -> list[str]:
    text = _text(path, _NAMES)
    if path.suffix.lower() in (".yaml", ".yml"):
        return _yaml_names(text, path)
    names = [line.strip() for line in text.splitlines()]
    while names and not names[-1]:
        names.pop()
    return _checked(names, path)


def _yaml_names(text: str, path: Path) -> list[str]:
    try:
        import yaml
    except ImportError as error:
        raise MissingExtraError(
            "reading names of classes from YAML needs PyYAML", received=str(path),
            valid="a text file with a name a line", next_command="pip install 'aqd-deploy[torch]'",
        ) from error  # fmt: skip
    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise AqdError(f"the file of classes is not YAML: {line_of(error)}", received=str(path)) from error
    names = document.get("names") if isinstance(document, dict) else None
    if isinstance(names, dict) and sorted(names, key=str) == sorted(range(len(names)), key=str):
        names = [names[index] for index in range(len(names))]
    if not isinstance(names, list):
        raise AqdError(
            "the file of classes has no list `names`", received=str(path),
            valid="names: [cat, dog], or names: {0: cat, 1: dog}",
        )  # fmt: skip
    return _checked([str(name) for name in names], path)


def _checked(names: list[str], path: Path) -> list[str]:
    if not names or not all(names) or len(set(names)) != len(names):
        raise AqdError(
            "the file of classes does not have a name of its own for each class", received=str(path),
            valid="different names, one a class",
        )  # fmt: skip
    return names


def _text(path: Path, kind: FileKind) -> str:
    try:
        return kind.read(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise AqdError(f"the {kind.name} is not text in UTF-8", received=str(path)) from error


def _objects(data: bytes, path: Path | None, classes: int) -> list[_Object]:
    """Class, and left, top, width and height in shares of the image, of every object, each once."""
    found: dict[_Object, None] = {}
    for number, line in enumerate(data.decode("utf-8", errors="replace").splitlines(), start=1):
        words = line.split()
        if words:
            try:
                found[_object(words, classes)] = None
            except ValueError as error:
                raise AqdError(
                    f"the label file has {error}", received=f"{path}:{number}", valid=_COLUMNS
                ) from error
    return list(found)


def _object(words: list[str], classes: int) -> _Object:
    """An object of a line. Raises ValueError with what the line has instead."""
    try:
        label, *numbers = (float(word) for word in words)
    except ValueError:
        raise ValueError(f"a line that is not numbers ({' '.join(words)[:40]})") from None
    is_polygon = len(numbers) >= 6 and len(numbers) % 2 == 0
    if len(numbers) != 4 and not is_polygon:
        raise ValueError(f"a line of {len(words)} numbers")
    if not (label.is_integer() and 0 <= label < classes):
        raise ValueError(f"class {label:g} of {classes}, which count from 0")
    if not all(-_SLACK <= value <= 1 + _SLACK for value in numbers):
        raise ValueError("a number that is not a share of the image")
    box = _around(numbers) if is_polygon else _from_centre(*numbers)
    if box[2] <= 0 or box[3] <= 0:
        raise ValueError("a box of no size")
    return int(label), box


def _from_centre(x: float, y: float, width: float, height: float) -> tuple[float, float, float, float]:
    return x - width / 2, y - height / 2, width, height


def _around(numbers: list[float]) -> tuple[float, float, float, float]:
    """The box around a polygon x1, y1, x2, y2, ..."""
    xs, ys = numbers[::2], numbers[1::2]
    return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)
