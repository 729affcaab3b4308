"""What a run has finished, in a folder beside its output: the next run of the same goes on with it."""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from aqd_deploy.errors import StorageError
from aqd_deploy.files import replacing, sweep, write_text

Arrays = dict[str, np.ndarray]
_MARK = "made-by-quantize"
"""The file with the key, which tells the folder from any other."""


class State:
    """Results by name, each a dict of arrays. Without a `folder` they are kept for this run alone.

    `key` is a hash of all that results depend on: those of another key go. Raises StorageError for a folder
    that was made for something else.
    """

    def __init__(self, folder: Path | None = None, key: str = "") -> None:
        self.folder, self._key = folder, key
        self._own: dict[str, Arrays] = {}
        if folder is None or not folder.is_dir():
            return
        mark = folder / _MARK
        sweep(folder)
        if not any(folder.iterdir()):
            # Who made it was killed before there was a result.
            return
        if not mark.is_file():
            raise StorageError(
                "the folder for what is finished is there already, with other things in it",
                received=str(folder), valid="another name for the output, or the folder moved away",
            )  # fmt: skip
        if mark.read_text(encoding="utf-8") != key:
            self.remove()

    def once(self, name: str, make: Callable[[], Arrays]) -> Arrays:
        """What `make` returns, from an earlier run where that has finished it."""
        found = self.get(name)
        if found is None:
            found = make()
            self.put(name, found)
        return found

    def get(self, name: str) -> Arrays | None:
        """A finished result; None where there is none that can be read."""
        if self.folder is None:
            return self._own.get(name)
        if not self._file(name).is_file():
            return None
        try:
            with np.load(self._file(name), allow_pickle=False) as arrays:
                return dict(arrays)
        except (OSError, ValueError, zipfile.BadZipFile):
            return None

    def put(self, name: str, arrays: Arrays) -> None:
        """Keeps a result; its file is there whole or not at all."""
        if self.folder is None:
            self._own[name] = arrays
            return
        if not (self.folder / _MARK).is_file():
            write_text(self.folder / _MARK, self._key)
        with replacing(self._file(name)) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    def remove(self) -> None:
        """All that is kept goes, and the folder."""
        if self.folder is not None and (self.folder / _MARK).is_file():
            shutil.rmtree(self.folder)

    def _file(self, name: str) -> Path:
        assert self.folder is not None, "asked by those who looked"
        return self.folder / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}.npz"
