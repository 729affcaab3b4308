"""Descriptions of detectors that ship, a TOML file each, by name: `yolov8` is `yolov8.toml`.

Those whose name begins with an underscore are only there for others to begin with.
"""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent


def shipped() -> tuple[str, ...]:
    """The names, sorted."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("[!_]*.toml")))


def is_shipped(path: Path) -> bool:
    """Whether a file is one of these."""
    return path.parent == _FOLDER


def file_of(name: str) -> Path:
    """The file of a shipped description, which may also be one with an underscore."""
    return _FOLDER / f"{name}.toml"
