"""The bundle of a program, as the devices that run `aqd-run` need it: made when first asked for, in a folder
that goes with the device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aqd_deploy.errors import AqdError, ProgramError, TargetError
from aqd_deploy.files import TemporaryFolder
from aqd_deploy.runtime.container import read_container, read_manifest
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
            "the folder is no bundle",
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


def make_bundle(program: Path, folder: Path) -> None:
    """Write the bundle of `program` to `folder`. Raises what `aqd_deploy.bundle.create_bundle` raises."""
    from aqd_deploy.bundle import create_bundle

    create_bundle(program, folder)


class Bundles:
    """Bundles of programs, each made once for as long as its program stays as it is. Close it."""

    def __init__(self, create: Callable[[Path, Path], object] | None = None) -> None:
        self._create = create
        self._folder: TemporaryFolder | None = None
        self._made: dict[str, LocalBundle] = {}

    def get(self, path: Path) -> LocalBundle:
        """The bundle of the program `path`, or the one that the folder `path` is.

        Raises ProgramError for a damaged program, and what the making of a bundle raises.
        """
        container = read_container(program_file(path))
        if path.is_dir():
            return LocalBundle(path, container.manifest)
        name = container.sha256[:16]
        if name not in self._made:
            if self._folder is None:
                self._folder = TemporaryFolder()
            folder = self._folder.path / name
            # Of the bytes that were read, whatever lies at `path` by now.
            program = folder.with_suffix(".so")
            with self._folder.writing():
                program.write_bytes(container.data)
            try:
                (self._create or make_bundle)(program, folder)
            except AqdError as error:
                raise error.about(program, path).about(folder, folder.parent.parent.parent) from error
            finally:
                program.unlink()
            self._made[name] = LocalBundle(folder, container.manifest)
        return self._made[name]

    def close(self) -> None:
        """Remove the bundles that were made."""
        if self._folder is not None:
            self._folder.close()
        self._folder = None
        self._made.clear()
