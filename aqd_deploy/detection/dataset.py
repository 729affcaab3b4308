"""Which number an image and a class have in COCO results: the data set's where it is known, else one that is
unique.
"""

from __future__ import annotations

import itertools
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
    """A number for each file, no two alike: the one that its name is, as COCO's images have them, where no
    other file's name is the same number; the others count on from the largest, in the order of the files.
    """
    named = {path: int(path.stem) if _NUMBER.fullmatch(path.stem) else None for path in files}
    count = Counter(named.values())
    others = itertools.count(max((number for number in named.values() if number is not None), default=0) + 1)
    return {
        path: next(others) if number is None or count[number] > 1 else number
        for path, number in named.items()
    }


def category_ids(classes: Sequence[str], annotations: dict[str, Any]) -> list[int]:
    """The COCO category id of each class, matched by name in an annotations document.

    Raises AqdError for a class the annotations do not name, or whose name is in them twice, and where two
    have one id.
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
    if len(set(ids)) != len(ids):
        raise AqdError("two classes of the model have one category id in the annotations", received=ids)
    return ids


class AnnotatedImages:
    """The images that a COCO annotations document names, found by a file's path.

    `file_name` may have folders in it: a file is the image whose name its path ends with, folder by folder.
    """

    def __init__(self, annotations: dict[str, Any]) -> None:
        self._by_name: dict[tuple[str, ...], set[int | str]] = {}
        self._alike: dict[str, str] = {}
        for entry in annotations["images"]:
            parts = _parts(entry.get("file_name", ""))
            if parts:
                self._by_name.setdefault(parts, set()).add(entry["id"])
                self._alike.setdefault(parts[-1], "/".join(parts))
        self._lengths = sorted({len(parts) for parts in self._by_name}, reverse=True)

    def names(self, path: Path) -> bool:
        """Whether the annotations name the file."""
        return bool(self._ids(path))

    def assign(self, files: Iterable[Path]) -> tuple[dict[Path, int | str], dict[Path, ImageError]]:
        """The id of the image in each file, and what is wrong with the other files: the annotations do not
        name them, or do not tell two of them apart.
        """
        found = {path: self._ids(path) for path in files}
        count = Counter(number for numbers in found.values() for number in numbers)
        ids, refused = dict[Path, int | str](), dict[Path, ImageError]()
        for path, numbers in found.items():
            if not numbers:
                refused[path] = self._not_named(path)
            elif len(numbers) > 1 or count[next(iter(numbers))] > 1:
                refused[path] = ImageError(
                    "the annotations have one id or name for two images", received=str(path),
                    valid="file names that are different, with the folders that tell them apart",
                )  # fmt: skip
            else:
                ids[path] = next(iter(numbers))
        return ids, refused

    def _ids(self, path: Path) -> set[int | str]:
        parts = _parts(str(path.absolute()))
        for length in self._lengths:
            if (numbers := self._by_name.get(parts[-length:])) is not None:
                return numbers
        return set()

    def _not_named(self, path: Path) -> ImageError:
        alike = self._alike.get(_parts(path.name)[-1]) if path.name else None
        return ImageError(
            "the annotations do not name the image", received=str(path),
            valid=f"a path that ends with {alike}" if alike else None,
        )  # fmt: skip


def _parts(name: str) -> tuple[str, ...]:
    """The parts of a path, which a document may have from another system."""
    path = posixpath.normpath(unicodedata.normalize("NFC", name.replace("\\", "/")))
    return tuple(part for part in path.split("/") if part not in ("", ".", ".."))
