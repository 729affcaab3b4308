"""The folder that `detect` fills: results and drawings as they come, and no file of anybody else touched."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from PIL import Image

from aqd_deploy.claims import check_claim, claim
from aqd_deploy.files import TemporaryFolder, write_text

_VERB = "detect"
INDEX, RESULTS = "images.json", "results.json"
# Bytes of a drawing's name without its ending: a file system takes 255, and a number may follow.
_LONGEST_STEM = 240
# The results are written again when they are this old, or older than this many times what that takes.
_SECONDS, _TIMES = 1.0, 20


class ResultsFolder:
    """`folder`, with `results.json` (COCO result records), `images.json` (the images, categories and which
    drawing belongs to which image) and a PNG for each of `files`.

    What is done is there, whenever the process ends; with `whole`, nothing is there before all is done. The
    files of an earlier run go when the first image is done.

    Raises AqdError where a file would be overwritten that is one of `files` or `inputs`, or that no earlier
    run wrote (`claims`). Use it with `with`; then OSError where the folder cannot be written.
    """

    def __init__(
        self, folder: Path, files: Sequence[Path], inputs: Iterable[Path], categories: list[dict[str, Any]],
        *, whole: bool = False,
    ) -> None:  # fmt: skip
        self.folder = folder
        self.drawings = _names(files)
        self._categories, self._whole = categories, whole
        self._earlier = check_claim(
            folder, _VERB, (INDEX, RESULTS, *self.drawings.values()), [*files, *inputs]
        )
        self._images: list[dict[str, Any]] = []
        self._results: list[dict[str, Any]] = []
        self._staging: TemporaryFolder | None = None
        self._saved, self._cost = 0.0, 0.0

    def add(
        self, file: Path, image: dict[str, Any], results: list[dict[str, Any]], drawing: Image.Image
    ) -> None:
        """Add an image's entry of images.json, its records and its drawing."""
        staging = self._begin()
        name = self.drawings[file]
        with staging.writing():
            drawing.save(staging.path / name, format="PNG")
        self._images.append({**image, "drawing": name})
        self._results += results
        if not self._whole:
            (staging.path / name).replace(self.folder / name)
            if time.monotonic() - self._saved > max(_SECONDS, _TIMES * self._cost):
                self._save()

    def __enter__(self) -> ResultsFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._staging is None:
            return
        try:
            if self._whole and kind is None:
                self._remove_earlier()
                for entry in self._images:
                    (self._staging.path / entry["drawing"]).replace(self.folder / entry["drawing"])
            if not self._whole or kind is None:
                self._save()
                claim(self.folder, _VERB, (INDEX, RESULTS, *(entry["drawing"] for entry in self._images)))
        finally:
            self._staging.close()

    def _begin(self) -> TemporaryFolder:
        if self._staging is None:
            self._staging = TemporaryFolder(self.folder)
            if not self._whole:
                self._remove_earlier()
        return self._staging

    def _remove_earlier(self) -> None:
        # First of all: a later run must know them, wherever this one is killed.
        claim(self.folder, _VERB, (INDEX, RESULTS, *self._earlier, *self.drawings.values()))
        for name in self._earlier:
            (self.folder / name).unlink(missing_ok=True)

    def _save(self) -> None:
        started = time.monotonic()
        document = {"images": self._images, "categories": self._categories}
        write_text(self.folder / INDEX, json.dumps(document) + "\n")
        write_text(self.folder / RESULTS, json.dumps(self._results) + "\n")
        self._saved = time.monotonic()
        self._cost = self._saved - started


def printable(path: Path) -> str:
    """The path as text that every reader of JSON takes: a byte that is no character as `\\\\xff`."""
    return os.fsencode(path).decode(errors="backslashreplace")


def _names(files: Iterable[Path]) -> dict[Path, str]:
    """A PNG's name for each file, no two alike, also where a file system takes large letters for small."""
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for file in files:
        stem = printable(Path(file.stem)).encode()[:_LONGEST_STEM].decode(errors="ignore")
        name, count = f"{stem}.png", 1
        while name.casefold() in taken:
            count += 1
            name = f"{stem}_{count}.png"
        taken.add(name.casefold())
        names[file] = name
    return names
