"""Which number an image and a class have in COCO results: the data set's where it is known, else one that is
unique.
"""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from aqd_deploy.errors import AqdError, ImageError
from aqd_deploy.schema import SchemaError, list_of, table, text, whole

# What every reader of JSON keeps whole.
_NUMBER = re.compile(r"[0-9]{1,15}", re.ASCII)
_CATEGORIES = table({}, {"categories": list_of(table({"name": text, "id": whole()}))})


def numbered(files: Iterable[Path]) -> dict[Path, int]:
    """A number for each file, no two alike: those that their names are, as COCO's images have them, where
    these are different numbers; else 1, 2, ... in the order of the files.
    """
    files = list(dict.fromkeys(files))
    numbers = [int(path.stem) for path in files if _NUMBER.fullmatch(path.stem)]
    if len(set(numbers)) != len(files):
        numbers = list(range(1, len(files) + 1))
    return dict(zip(files, numbers, strict=True))


def category_ids(classes: Sequence[str], annotations: dict[str, Any]) -> list[int]:
    """The COCO category id of each class, matched by name in an annotations document.

    Raises AqdError for a class the annotations do not name, or whose name is in them twice.
    """
    by_name: dict[str, list[int]] = {}
    try:
        _CATEGORIES(annotations, "")
    except SchemaError as error:
        raise error.of("the annotations document", AqdError) from error
    for category in annotations.get("categories", []):
        by_name.setdefault(category["name"], []).append(category["id"])
    ids = []
    for name in classes:
        found = by_name.get(name, [])
        if len(found) != 1:
            problem = "twice" if found else "nowhere"
            raise AqdError(
                f"a class of the model is {problem} in the annotations' categories",
                received=name,
                valid=", ".join(by_name),
            )
        ids.append(found[0])
    return ids


class AnnotatedImages:
    """The images that a COCO annotations document names, found by a file's path.

    `file_name` may have folders in it: a file is the image whose name its path ends with, folder by folder.
    """

    def __init__(self, annotations: dict[str, Any]) -> None:
        self._by_name: dict[tuple[str, ...], int | str] = {}
        self._lengths: set[int] = set()
        for entry in annotations["images"]:
            if "file_name" not in entry:
                continue
            parts = _parts(entry["file_name"])
            if self._by_name.setdefault(parts, entry["id"]) != entry["id"]:
                raise AqdError(
                    "the annotations have two images of one file name", received=entry["file_name"],
                    valid="names that are different, with their folders",
                )  # fmt: skip
            self._lengths.add(len(parts))

    def assign(self, files: Iterable[Path]) -> tuple[dict[Path, int | str], dict[Path, ImageError]]:
        """The id of the image in each file, and what is wrong with the other files: the annotations do not
        name them, or have one image where there are two files.
        """
        found = {path: self._find(path) for path in files}
        count = Counter(found.values())
        ids = {path: number for path, number in found.items() if number is not None and count[number] == 1}
        return ids, {path: self._refusal(path, found[path]) for path in found if path not in ids}

    def _find(self, path: Path) -> int | str | None:
        parts = _parts(str(path.absolute()))
        for length in sorted(self._lengths, reverse=True):
            if (number := self._by_name.get(parts[-length:])) is not None:
                return number
        return None

    def _refusal(self, path: Path, number: int | str | None) -> ImageError:
        if number is not None:
            return ImageError(
                "another file is the same image of the annotations", received=str(path),
                valid="one file, or a file_name with the folders that tell them apart",
            )  # fmt: skip
        alike = ["/".join(parts) for parts in self._by_name if parts[-1:] == _parts(path.name)]
        return ImageError(
            "the annotations do not name the image", received=str(path),
            valid=f"a path that ends with {alike[0]}" if alike else None,
        )  # fmt: skip


def _parts(name: str) -> tuple[str, ...]:
    """The parts of a path, which a document may have from another system."""
    path = posixpath.normpath(unicodedata.normalize("NFC", name.replace("\\", "/")))
    return tuple(part for part in path.split("/") if part)
