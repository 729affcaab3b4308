"""The folder that `detect` fills: results and drawings as they come, and no file of anybody else touched."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from PIL import Image

from aqd_deploy.errors import AqdError
from aqd_deploy.files import TemporaryFolder, write_text
from aqd_deploy.inputs import MIB, FileKind
from aqd_deploy.schema import SchemaError, list_of, table, text, whole

INDEX, RESULTS = "images.json", "results.json"
_INDEX_FILE = FileKind("index of results", f"an {INDEX} written by detect", 256 * MIB)
_INDEX = table({"info": table({"aqd_deploy": whole(), "drawings": list_of(text)})})
# Bytes of a drawing's name without its ending: a file system takes 255, and a number may follow.
_LONGEST_STEM = 240
# The results are written again when they are this old, or older than this many times what that takes.
_SECONDS, _TIMES = 1.0, 20


class ResultsFolder:
    """`folder`, with `results.json` (COCO result records), `images.json` (the images, categories and which
    drawing belongs to which image) and a PNG for each of `files`.

    What is done is there, whenever the process ends; with `whole`, nothing is there before all is done. The
    files of an earlier run, which its images.json names, go when the first image is done.

    Raises AqdError where a file would be overwritten that is one of `files` or `inputs`, or that no earlier
    run wrote. Use it with `with`; then OSError where the folder cannot be written.
    """

    def __init__(
        self, folder: Path, files: Sequence[Path], inputs: Iterable[Path], categories: list[dict[str, Any]],
        *, whole: bool = False,
    ) -> None:  # fmt: skip
        self.folder = folder
        self.drawings = _names(files)
        self._categories, self._whole = categories, whole
        self._earlier = _drawings_of(folder)
        self._images: list[dict[str, Any]] = []
        self._results: list[dict[str, Any]] = []
        self._staging: TemporaryFolder | None = None
        self._made: list[Path] = []
        self._saved, self._cost = 0.0, 0.0
        self._check([*files, *inputs])

    def add(
        self, file: Path, image: dict[str, Any], results: list[dict[str, Any]], drawing: Image.Image
    ) -> None:
        """Add an image's entry of images.json, its records and its drawing."""
        staging = self._begin()
        name = self.drawings[file]
        drawing.save(staging / name, format="PNG")
        self._images.append({**image, "drawing": name})
        self._results += results
        if not self._whole:
            (staging / name).replace(self.folder / name)
            if time.monotonic() - self._saved > max(_SECONDS, _TIMES * self._cost):
                self._save(self.drawings.values())

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
                self._save([entry["drawing"] for entry in self._images])
        finally:
            self._staging.close()
            for folder in reversed(self._made):
                # Those that nothing has come into.
                with suppress(OSError):
                    folder.rmdir()

    def _check(self, inputs: list[Path]) -> None:
        if self.folder.exists() and not self.folder.is_dir():
            raise AqdError("the output is a file", received=str(self.folder), valid="the name of a folder")
        ours = {INDEX, RESULTS, *self._earlier} if self._earlier is not None else set()
        taken = {_identity(path) for path in inputs if path.exists()}
        for name in sorted({INDEX, RESULTS, *self.drawings.values(), *ours}):
            path = self.folder / name
            if not os.path.lexists(path):
                continue
            if path.exists() and _identity(path) in taken:
                raise AqdError("the output is also an input", received=str(path), valid="another folder")
            if name not in ours:
                raise AqdError(
                    "the output folder has a file that detect did not write", received=str(path),
                    valid="another folder, or that file elsewhere",
                )  # fmt: skip

    def _begin(self) -> Path:
        if self._staging is None:
            missing = [path for path in (self.folder, *self.folder.parents) if not path.exists()]
            self.folder.mkdir(parents=True, exist_ok=True)
            self._made = missing[::-1]
            self._staging = TemporaryFolder(self.folder)
            if not self._whole:
                self._remove_earlier()
        return self._staging.path

    def _remove_earlier(self) -> None:
        """All that an earlier run left, and first of all say which files are this run's: a later one must
        know them, wherever this one is killed.
        """
        earlier = self._earlier or []
        self._save_index([*earlier, *self.drawings.values()])
        for name in (RESULTS, *earlier):
            (self.folder / name).unlink(missing_ok=True)

    def _save(self, drawings: Iterable[str]) -> None:
        started = time.monotonic()
        self._save_index(drawings)
        write_text(self.folder / RESULTS, json.dumps(self._results) + "\n")
        self._saved = time.monotonic()
        self._cost = self._saved - started

    def _save_index(self, drawings: Iterable[str]) -> None:
        info = {"description": "written by aqd-deploy detect", "aqd_deploy": 1, "drawings": list(drawings)}
        document = {"info": info, "images": self._images, "categories": self._categories}
        write_text(self.folder / INDEX, json.dumps(document) + "\n")


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


def _drawings_of(folder: Path) -> list[str] | None:
    """The drawings that an earlier run says are its own; None where there was none."""
    try:
        document = _INDEX_FILE.read_json(folder / INDEX)
        _INDEX(document, "")
    except (AqdError, SchemaError):
        return None
    return [name for name in document["info"]["drawings"] if Path(name).name == name and name[-4:] == ".png"]


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino
