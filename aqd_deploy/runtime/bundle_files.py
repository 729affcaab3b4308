"""What a bundle's folder holds: the names of its files, and what its program says of itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aqd_deploy.errors import ProgramError, TargetError
from aqd_deploy.runtime.container import read_manifest
from aqd_deploy.runtime.tensors import TensorInfo
from aqd_deploy.targets import Target, get

RUNNER, PROGRAM = "aqd-run", "program.so"


@dataclass(frozen=True)
class LocalBundle:
    """A bundle's folder on this machine, and what its program says of itself."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def target(self) -> dict[str, Any]:
        """What the program is for: `name`, `architecture`, `cpu`, `features`, ..."""
        return dict(self.manifest["program"]["target"])

    @property
    def inputs(self) -> list[TensorInfo]:
        """The program's inputs in order."""
        return TensorInfo.from_manifest(self.manifest["program"]["inputs"])

    @property
    def outputs(self) -> list[TensorInfo]:
        """The program's outputs in order."""
        return TensorInfo.from_manifest(self.manifest["program"]["outputs"])

    def files(self) -> dict[str, Path]:
        """Every file by its path within the bundle, with forward slashes."""
        found = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return {path.relative_to(self.folder).as_posix(): path for path in found}


def program_file(path: Path) -> Path:
    """The program: `path` itself, or the one in the bundle `path`.

    Raises ProgramError where `path` is a folder without a bundle in it.
    """
    if not path.is_dir():
        return path
    missing = [name for name in (PROGRAM, RUNNER) if not (path / name).is_file()]
    if missing:
        raise ProgramError(
            "the folder is not a bundle",
            received=f"{path}, without {' and '.join(missing)}",
            next_command="aqd-deploy package PROGRAM.so -o BUNDLE",
        )
    return path / PROGRAM


def target_of(path: Path) -> Target | None:
    """The profile that the program (or bundle) `path` was compiled for; None where it is not known here, or
    the program cannot be read: whoever runs it tells why.
    """
    try:
        return get(read_manifest(program_file(path))["program"]["target"]["name"])
    except (TargetError, ProgramError):
        return None
