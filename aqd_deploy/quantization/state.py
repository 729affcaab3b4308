"""What a run has finished, in a folder beside its output: the next run of the same goes on with it."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from aqd_deploy.files import replacing

Arrays = dict[str, np.ndarray]
_KEY = "key"


class State:
    """Results by name, each a dict of arrays. `folder` None keeps nothing.

    `key` is a hash of all that results depend on; a folder with another key is emptied.
    """

    def __init__(self, folder: Path | None = None, key: str = "") -> None:
        self.folder = folder
        self.resumed = 0
        if folder is None:
            return
        mark = folder / _KEY
        if folder.is_dir() and (not mark.is_file() or mark.read_text(encoding="utf-8") != key):
            self.remove()
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(mark) as temporary:
            temporary.write_text(key, encoding="utf-8")

    def once(self, name: str, make: Callable[[], Arrays]) -> Arrays:
        """What `make` returns, from an earlier run where that has finished it."""
        found = self.get(name)
        if found is None:
            found = make()
            self.put(name, found)
        return found

    def get(self, name: str) -> Arrays | None:
        """A finished result; None where there is none."""
        if self.folder is None or not self._file(name).is_file():
            return None
        with np.load(self._file(name), allow_pickle=False) as arrays:
            self.resumed += 1
            return dict(arrays)

    def put(self, name: str, arrays: Arrays) -> None:
        """Keeps a result; the file is there whole or not at all."""
        if self.folder is not None:
            with replacing(self._file(name)) as temporary, temporary.open("wb") as file:
                np.savez(file, **arrays)  # type: ignore[arg-type]

    def remove(self) -> None:
        """The folder goes, where it is one of these and nothing else is in it."""
        if self.folder is not None and self.folder.is_dir():
            shutil.rmtree(self.folder)

    def _file(self, name: str) -> Path:
        assert self.folder is not None, "asked by those who looked"
        return self.folder / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}.npz"
