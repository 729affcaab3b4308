"""Files that are made or fetched once: in the user's cache folder, named by what they were made from."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path


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
    """The folder `name` of the cache; where there is none, `make` fills a temporary one, which is renamed.

    Two processes may do so at once: one of the two folders stays. Raises OSError where the cache cannot be
    written, and what `make` raises.
    """
    folder = cache_folder() / name
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        make(temporary)
        if not folder.is_dir():
            temporary.replace(folder)
    except OSError:
        # Another process was faster.
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder
