"""Functions that worker processes import."""

from __future__ import annotations

import os
import time
from pathlib import Path

from aqd_deploy.errors import DeviceError, ImageError

_LONG = 120.0


def meet(path: Path) -> tuple[str, int]:
    """Waits until another piece of the same folder is at work."""
    path.touch()
    end = time.monotonic() + _LONG
    while len(list(path.parent.iterdir())) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    return path.name, os.getpid()


def lose_once(path: Path) -> str:
    """The first process that comes here loses its board, in the middle of a piece."""
    if _is_first(path.parent):
        raise DeviceError("the board was lost", received="nothing")
    return path.name


def hang_once(path: Path) -> str:
    """The board of the first process that comes here does not answer any more."""
    if _is_first(path.parent):
        time.sleep(_LONG)
    return path.name


def lose(path: Path) -> str:
    raise DeviceError("the board was lost", received=path.name)


def refuse(path: Path) -> str:
    raise ImageError("not an image", received=path.name)


def end(path: Path) -> str:
    os._exit(1)


def _is_first(folder: Path) -> bool:
    try:
        (folder / "first").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
