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

from aqd_deploy.detection.image_files import printable
from aqd_deploy.own_files import OwnFiles

INDEX, RESULTS = "images.json", "results.json"
# Bytes of a drawing's name without its ending: file systems take 143 to 255, and a number may follow.
_LONGEST_STEM = 120
# The results are written again when they are this old, or older than this many times what that takes.
_SECONDS, _TIMES = 1.0, 20


class ResultsFolder:
    """`folder`, with `results.json` (COCO result records), `images.json` (the images, categories and which
    drawing belongs to which image) and a PNG for each of `files`.

    What is done is there, whenever the process ends; with `whole`, nothing is there before all is done. The
    files of an earlier run go when the first image is done. Raises what `OwnFiles` raises; `inputs` are
    files that it must not replace either.
    """

    def __init__(
        self, folder: Path, files: Sequence[Path], inputs: Iterable[Path], categories: list[dict[str, Any]],
        *, whole: bool = False,
    ) -> None:  # fmt: skip
        self.drawings = drawing_names(files)
        self._own = OwnFiles(
            folder, "detect", (INDEX, RESULTS, *self.drawings.values()), [*files, *inputs]
        )  # fmt: skip
        self._categories, self._whole = categories, whole
        self._images: list[dict[str, Any]] = []
        self._results: list[dict[str, Any]] = []
        self._saved, self._cost = 0.0, 0.0

    def add(
        self, file: Path, image: dict[str, Any], results: list[dict[str, Any]], drawing: Image.Image
    ) -> None:
        """Add an image's entry of images.json, its records and its drawing."""
        name = self.drawings[file]
        staged = self._own.staging / name
        with self._own.writing():
            drawing.save(staged, format="PNG")
        first = not self._images
        self._images.append({**image, "drawing": name})
        self._results += results
        if self._whole:
            return
        if first:
            self._own.remove(self._own.earlier())
        self._own.publish(staged, name)
        if time.monotonic() - self._saved > max(_SECONDS, _TIMES * self._cost):
            self._save()

    def __enter__(self) -> ResultsFolder:
        self._own.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._images and kind is None and self._whole:
                self._own.remove(self._own.earlier())
                for entry in self._images:
                    self._own.publish(self._own.staging / entry["drawing"], entry["drawing"])
            if self._images and (kind is None or not self._whole):
                self._save()
        finally:
            self._own.__exit__(kind, error, trace)

    def _save(self) -> None:
        started = time.monotonic()
        # In this order: an image without results is one in which nothing was found.
        self._write(RESULTS, self._results)
        self._write(INDEX, {"images": self._images, "categories": self._categories})
        self._saved = time.monotonic()
        self._cost = self._saved - started

    def _write(self, name: str, document: object) -> None:
        staged = self._own.staging / name
        with self._own.writing(), staged.open("w", encoding="utf-8") as file:
            file.write(json.dumps(document) + "\n")
            file.flush()
            # A rename may be on the disk before the content is.
            os.fsync(file.fileno())
        self._own.publish(staged, name)


def drawing_names(files: Iterable[Path]) -> dict[Path, str]:
    """A PNG's name for each file, no two alike, also where a file system takes large letters for small."""
    names: dict[Path, str] = {}
    taken: set[str] = set()
    count: dict[str, int] = {}
    for file in files:
        stem = printable(Path(file.stem)).encode()[:_LONGEST_STEM].decode(errors="ignore")
        name, folded = f"{stem}.png", stem.casefold()
        while name.casefold() in taken:
            count[folded] = count.get(folded, 1) + 1
            name = f"{stem}_{count[folded]}.png"
        taken.add(name.casefold())
        names[file] = name
    return names
