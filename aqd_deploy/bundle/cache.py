"""Files that are made or fetched once: in the user's cache folder, named by what they were made from."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from aqd_deploy.errors import BundleError
from aqd_deploy.files import failure, made_once


def cache_folder() -> Path:
    """`aqd-deploy` in the folder that XDG_CACHE_HOME names (default: ~/.cache)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aqd-deploy"


def key_of(parts: Iterable[bytes]) -> str:
    """A name of 24 hexadecimal digits for `parts`, in their order."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()[:24]


def cached(name: str, make: Callable[[Path], None]) -> Path:
    """The folder `name` of the cache, filled by `make` where there is none.

    Raises BundleError where the cache cannot be written, and what `make` raises.
    """
    folder = cache_folder()
    try:
        return made_once(folder / name, make)
    except OSError as error:
        if not _is_about(error, folder):
            raise
        advice = "the same command with XDG_CACHE_HOME=FOLDER, another folder for the cache"
        raise failure("cannot keep files in the cache", error, BundleError, advice) from error


def _is_about(error: OSError, folder: Path) -> bool:
    """Whether it is about a file in `folder`, or a folder that this lies in."""
    if error.filename is None:
        return False
    place = Path(error.filename)
    return place.is_relative_to(folder) or folder.is_relative_to(place)
