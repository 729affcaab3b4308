"""The bundle of a program, as the devices that run `aqd-run` need it: made when first asked for, in a folder
that goes with the device.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from aqd_deploy.bundle import create_bundle
from aqd_deploy.errors import AqdError
from aqd_deploy.files import TemporaryFolder
from aqd_deploy.runtime.bundle_files import LocalBundle, program_file
from aqd_deploy.runtime.container import read_container


def make_bundle(program: Path, folder: Path) -> None:
    """Write the bundle of `program` to `folder`. Raises what `aqd_deploy.bundle.create_bundle` raises."""

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
