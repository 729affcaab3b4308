"""Files that are made or fetched once: in the user's cache folder, named by what they were made from."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from aqd_deploy.files import made_once


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

    Raises OSError where the cache cannot be written, and what `make` raises.
    """
    return made_once(cache_folder() / name, make)
