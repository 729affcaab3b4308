"""Which image files paths mean: files, and what lies in folders."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from aqd_deploy.errors import ImageError
from aqd_deploy.own_files import written_in

IMAGE_SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
)


@dataclass
class ImageFiles:
    """Files to look at, each once, and what is wrong with the other paths that were named."""

    files: list[Path] = field(default_factory=list)
    refused: dict[Path, ImageError] = field(default_factory=dict)


def image_files(paths: Iterable[Path], *, recursive: bool = False) -> ImageFiles:
    """The files named, and of each folder named the image files in it (`recursive`: and below it), by name.

    In folders, names that begin with a point are not looked at (macOS adds such files), nor what our own
    verbs wrote there. A file that is there under several names is taken under the first. Refused are paths
    where nothing is, folders without images, and those that cannot be read.
    """
    found = ImageFiles()
    seen: set[str] = set()
    for named in paths:
        for path in _in_folder(named, recursive, found.refused) if os.path.isdir(named) else [named]:
            real = os.path.realpath(path)
            if not os.path.lexists(path):
                found.refused[path] = ImageError("there is no such image file", received=printable(path))
            elif real not in seen:
                seen.add(real)
                found.files.append(path)
    return found


def _in_folder(folder: Path, recursive: bool, refused: dict[Path, ImageError]) -> list[Path]:
    found = list(_walk(folder, recursive, refused))
    if not found and folder not in refused:
        below = not recursive and any(_walk(folder, True, {}))
        refused[folder] = ImageError(
            "the folder has no images in it", received=printable(folder),
            valid="--recursive, for those in the folders in it" if below else None,
        )  # fmt: skip
    return found


def _walk(folder: Path, recursive: bool, refused: dict[Path, ImageError]) -> Iterable[Path]:
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        why = error.strerror or str(error)
        refused[folder] = ImageError(f"the folder cannot be read: {why}", received=printable(folder))
        return
    own = written_in(folder)
    for path in entries:
        if path.name.startswith(".") or path.name in own:
            continue
        if os.path.isdir(path):
            # A link may lead up, and round in circles.
            if recursive and not path.is_symlink():
                yield from _walk(path, recursive, refused)
        elif path.suffix.lower() in IMAGE_SUFFIXES and os.path.isfile(path):
            yield path


def printable(path: Path) -> str:
    """The path as text that every reader of JSON takes: a byte that is not a character as `\\\\xff`."""
    return os.fsencode(path).decode(errors="backslashreplace")
