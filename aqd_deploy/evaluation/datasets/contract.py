"""What a format of labels gives, and the folder of images that the labels are for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from aqd_deploy.detection.image_files import image_files
from aqd_deploy.errors import AqdError


@dataclass(frozen=True)
class DataSet:
    """Labels as a COCO document, of which `ids` tells which image is in which file.

    An annotation with `difficult` 1 has `iscrowd` 1, too: boxes there count neither for nor against.
    `sha256` is that of the file, or of all files of a folder. Where not all categories are known (`complete`
    is false), the document has those that occur.
    """

    format: str
    document: dict[str, Any]
    ids: dict[Path, int | str]
    sha256: str
    complete: bool = True


class Format(Protocol):
    """A format of labels: `told` says in words what `reads` looks for."""

    name: str
    told: str
    takes_names: bool

    def reads(self, annotations: Path) -> bool:
        """Whether these labels look like this format's."""
        ...

    def read(self, annotations: Path, images: ImageFolder, names: Path | None) -> DataSet:
        """The data set. Raises AqdError with file and line where a label is damaged."""
        ...


@dataclass(frozen=True)
class ImageFolder:
    """The image files in the folder `root` and below it, by name."""

    root: Path
    files: list[Path]

    @classmethod
    def of(cls, root: Path) -> ImageFolder:
        """Raises AqdError where it is no folder, ImageError where it has no images or cannot be read."""
        if not root.is_dir():
            raise AqdError("the images are not a folder", received=str(root), valid="a folder of images")
        found = image_files([root], recursive=True)
        for error in found.refused.values():
            raise error
        return cls(root, found.files)

    @cached_property
    def by_stem(self) -> dict[Path, Path]:
        """Every file by its path below `root`, without what stands behind the last point. Raises AqdError
        where two would be one.
        """
        stems: dict[Path, Path] = {}
        for path in self.files:
            stem = path.relative_to(self.root).with_suffix("")
            if stem in stems:
                raise AqdError(
                    "two images differ only in what stands behind the point of their names",
                    received=f"{stems[stem]}, {path}", valid="one of them: a label tells only what is before",
                )  # fmt: skip
            stems[stem] = path
        return stems


def label_files(folder: Path, suffix: str) -> Iterator[Path]:
    """The files of a folder, and below it, whose names end with `suffix`, by name; hidden ones left out."""
    return (
        path for path in sorted(folder.rglob(f"*{suffix}")) if path.is_file() and path.name[0] != "."
    )  # fmt: skip


def pairs(labels: dict[Path, Path], images: ImageFolder) -> Iterator[tuple[Path, Path | None]]:
    """Every image that has a label file (`labels`: by path without ending, as in `by_stem`), with it; by the
    images' names. Raises AqdError for a label without an image.
    """
    lacking = [path for stem, path in labels.items() if stem not in images.by_stem]
    if lacking:
        raise AqdError(
            f"{len(lacking)} of {len(labels)} label files have no image of their name in {images.root}",
            received=", ".join(map(str, lacking[:3])) + (" ..." if len(lacking) > 3 else ""),
            valid="images whose paths are those of the labels, but for their endings",
        )
    for stem, image in images.by_stem.items():
        yield image, labels.get(stem)


def document_of(
    images: list[dict[str, Any]], annotations: list[dict[str, Any]], names: Iterable[str]
) -> dict[str, Any]:
    """A COCO document; categories count from 1."""
    categories = [{"id": index, "name": name} for index, name in enumerate(names, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def annotation(
    number: int, image: int, category: int, box: tuple[float, float, float, float], difficult: bool = False
) -> dict[str, Any]:
    """A COCO annotation; `box` is x, y, width and height in pixels."""
    return {
        "id": number, "image_id": image, "category_id": category, "bbox": list(box), "area": box[2] * box[3],
        "iscrowd": int(difficult), "difficult": int(difficult),
    }  # fmt: skip


class Digest:
    """SHA-256 of several files: of their names and contents."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, name: str, data: bytes) -> None:
        """Take a file in."""
        for part in (name.encode(errors="surrogateescape"), data):
            self._hash.update(len(part).to_bytes(8, "little") + part)

    def hexdigest(self) -> str:
        """64 hexadecimal digits."""
        return self._hash.hexdigest()
